"""What a claim that was not shown would have needed: seeds, pairs, or a wider margin.

The numbers follow from the difference that was measured, taken for the true one, and from the errors that were
measured. They are for 80 % power: 80 such studies in 100 would have come to a verdict.
"""

import itertools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from vademecum.evaluation.compare import ALPHA
from vademecum.records import Record
from vademecum.report.numbers import counted, score
from vademecum.study.design import Design, declared_seeds
from vademecum.study.effects import Effect, NoiseFloor
from vademecum.study.records import BASELINE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

POWER = 0.8
MOST_SEEDS = 1000
"""Beyond this many there is no use in saying how many."""
LONGEST_LIST = 8
"""Seeds that are written out one by one."""


class Needed(Record):
    """What would have led to a verdict; each on its own, unless `together`."""

    goal: Literal["difference", "no real difference"]
    """The verdict that takes fewer seeds; the second is possible where the difference is smaller than the margin."""
    seeds: int | None
    """Of both variants and of the baseline, those that there are included; None: seeds alone would not do."""
    more_trials: int | None
    """That the declaration has on top of the present one when these seeds are written into it."""
    declare: str | None
    """What to write: `baseline_seeds = [0, 1, 2], and seeds = [0, 1, 2] in the factor of optimizer=adafactor`."""
    seed_minutes: float | None
    """For these trials, by the mean minutes of a trial."""
    pairs: int | None
    """Test (or validation) pairs, those that there are included, in groups like these: in a study of its own, for the
    pairs of one that has begun stand. None: pairs alone would not do."""
    together: bool
    """It takes both numbers, of seeds and of test pairs."""
    margin: float
    """The margin with which these data would have shown no real difference, had it been declared beforehand."""


class Order(NamedTuple):
    """A declaration with more seeds."""

    trials: int
    """That it adds."""
    written: str


def order_seeds(design: Design, variants: Collection[str], count: int) -> Order:
    """As many seeds for the baseline and for these variants, by way of their factors: with those, what else is a level
    of the same factor has them too. Seeds that are declared stay."""
    study = design.study
    named = {one.factors[0]: one.name for one in design.variants if one.name in variants and one.factors}
    factors = [
        factor.model_copy(update={"seeds": _filled(factor.seeds or study.seeds, count)}) if place in named else factor
        for place, factor in enumerate(study.factors)
    ]
    seeds = _filled(study.baseline_seeds, count)
    wider = study.model_copy(update={"baseline_seeds": seeds, "factors": tuple(factors)})
    more = {one.name: len(declared_seeds(wider, one.factors)) - len(one.seeds) for one in design.variants}
    written = [f"baseline_seeds = {_listed(seeds)}"] if more[BASELINE] else []
    for place, name in named.items():
        if more[name]:
            written.append(f"seeds = {_listed(factors[place].seeds or ())} in the factor of {name}")
    return Order(sum(more.values()), ", and ".join(written))


def _filled(seeds: Sequence[int], count: int) -> tuple[int, ...]:
    others = (seed for seed in range(count) if seed not in seeds)
    return (*seeds, *itertools.islice(others, max(0, count - len(seeds))))


def _listed(seeds: Sequence[int]) -> str:
    found = sorted(seeds)
    long = len(found) > LONGEST_LIST and found == list(range(len(found)))
    return f"[0, 1, …, {found[-1]}]" if long else str(found)


def find_needed(
    effect: Effect, noise: NoiseFloor, margin: float, claims: int, minutes: float, order: Callable[[int], Order]
) -> Needed:
    """For an effect that led to no verdict; `claims` is their number in the study, `minutes` the mean of a trial, and
    `order` says what so many seeds take.

    To show a difference it must be (t_a + t_b) standard errors, where t_a is the quantile for 5 % over the number of
    claims (what Holm's method asks of the smallest p, so that it suffices for any), or for what the interval leaves out
    where that is less, and t_b that for the power. To show
    that there is none, the rest of the margin must be as many for a one-sided 5 %; there t_b is the quantile for
    (1 + power) / 2, because both one-sided tests must succeed: exact for a difference of zero, else a little more than
    it takes.
    """
    size = abs(effect.difference)
    tail = min(ALPHA / claims, 1 - effect.level) / 2
    found = [_find(_Search(effect, noise, size, tail, POWER), "difference", minutes, order)]
    if size < margin:
        search = _Search(effect, noise, margin - size, ALPHA, (1 + POWER) / 2)
        found.append(_find(search, "no real difference", minutes, order))
    return min(found, key=_cost)


def _cost(needed: Needed) -> tuple[bool, float, float]:
    """One number alone before both together; seeds, which the study can still be given, before test pairs."""
    return needed.together, needed.seeds or math.inf, needed.pairs or math.inf


def _find(
    search: "_Search",
    goal: Literal["difference", "no real difference"],
    minutes: float,
    order: Callable[[int], Order],
) -> Needed:
    seeds, pairs = search.seeds(search.effect.sampling_error, search.reach), search.pairs()
    together = seeds is None and pairs is None
    if together:
        seeds, pairs = search.both()
    ordered = None if seeds is None else order(seeds)
    low, high = search.effect.interval(1 - 2 * ALPHA)
    return Needed(
        goal=goal,
        seeds=seeds,
        more_trials=ordered.trials if ordered else None,
        declare=ordered.written if ordered else None,
        seed_minutes=ordered.trials * minutes if ordered else None,
        pairs=pairs,
        together=together,
        margin=max(-low, high),
    )


@dataclass(frozen=True)
class _Search:
    """The smallest numbers with which the standard error is small enough."""

    effect: Effect
    noise: NoiseFloor
    reach: float
    """What the standard error, times `factor`, must stay within."""
    tail: float
    power: float

    def factor(self, freedom: "NDArray[np.int64]") -> "NDArray[np.float64]":
        """How many standard errors the reach must be."""
        from scipy.stats import t

        quantiles: NDArray[np.float64] = t.ppf(1 - self.tail, freedom) + t.ppf(self.power, freedom)
        return quantiles

    def seeds(self, sampling: float, reach: float) -> int | None:
        """Of each variant, where the error of sampling is as given."""
        import numpy as np

        counts = np.arange(2, MOST_SEEDS + 1)
        ours, theirs, floor = (np.maximum(counts, have) for have in self._have())
        error = np.sqrt(sampling**2 + self.noise.sd**2 * (1 / ours + 1 / theirs))
        enough = counts[self.factor(floor - 1) * error <= reach]
        return int(enough[0]) if len(enough) else None

    def pairs(self) -> int | None:
        """Where the seeds stay what they are."""
        import numpy as np

        wanted = self.reach / float(self.factor(np.array([self.noise.seeds - 1]))[0])
        return self._pairs_for(wanted**2 - self.effect.seed_error**2)

    def both(self) -> tuple[int | None, int | None]:
        """Half of the variance for each."""
        import numpy as np

        seeds = self.seeds(0.0, self.reach / math.sqrt(2))
        if seeds is None:
            return None, None
        freedom = max(seeds, self.noise.seeds) - 1
        pairs = self._pairs_for((self.reach / float(self.factor(np.array([freedom]))[0])) ** 2 / 2)
        return (None, None) if pairs is None else (seeds, pairs)

    def _have(self) -> tuple[int, int, int]:
        return self.effect.seeds, self.effect.against_seeds, self.noise.seeds

    def _pairs_for(self, variance: float) -> int | None:
        if variance <= 0:
            return None
        return max(self.effect.n, math.ceil(self.effect.n * self.effect.sampling_error**2 / variance))


def in_words(needed: Needed, margin: float, pair: str) -> str:
    """One sentence without its stop: `to show a difference of this size would take about …`; `pair` is what one is."""
    aim = {"difference": "a difference of this size", "no real difference": "that there is no real difference"}
    ways = []
    if needed.seeds is not None and needed.more_trials is not None and needed.seed_minutes is not None:
        written = f": {needed.declare}" if needed.declare else ""
        ways.append(
            f"{counted(needed.seeds, 'seed')} of each variant and of the baseline "
            f"({counted(needed.more_trials, 'trial')} more, {_minutes(needed.seed_minutes)}{written})"
        )
    if needed.pairs is not None:
        ways.append(f"{counted(needed.pairs, pair)} (in a study of its own)")
    if ways:
        found = f"to show {aim[needed.goal]} would take about {(' and ' if needed.together else ', or ').join(ways)}"
    else:
        found = f"no number of seeds up to {MOST_SEEDS:,} would show {aim[needed.goal]}"
    wider = score(math.ceil(1000 * needed.margin) / 1000)
    return f"{found}; a declared margin of {wider} instead of {score(margin)} would have made it no real difference"


def _minutes(value: float) -> str:
    return counted(max(1, round(value)), "minute")
