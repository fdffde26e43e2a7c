"""How far two variants of a study differ, with the luck of training in the interval.

The difference of two variants is taken on the same test pairs (of the validation loss: on the same validation pairs):
for each pair the mean score over one variant's seeds minus that over the other's. Its variance has two parts: that of
the choice of pairs, clustered over groups, and that of training again with another seed, s^2 (1/n + 1/m) for n and m
seeds, where s is the standard deviation of the mean score over the baseline's seeds. The interval is a t interval with
(baseline seeds - 1) degrees of freedom.

The validation loss is of tokens, not of pairs: the difference is that of all nats over all tokens, a ratio, and its
sampling error is that of the residuals, each pair's nats less what its tokens would take (Cochran 1977).

It errs to the wide side in two ways. The scatter of the single scores from seed to seed is in both parts. And the
degrees of freedom are those of s alone, as if the other part were as badly known. It errs to the narrow side where a
variant varies more between its seeds than the baseline does: s is the baseline's, and taken for all of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from vademecum.evaluation import METRICS, clustered_standard_error
from vademecum.evaluation.compare import check_alike
from vademecum.records import Record, Score
from vademecum.study.records import BASELINE, PairLoss, TrialResult

BASE_MODEL = "base"
"""Stands for the untrained base model where a variant is held against it."""
VALIDATION_LOSS = "validation_loss"
STUDY_METRICS = (*METRICS, VALIDATION_LOSS)


class NoiseFloor(Record):
    """How much the baseline's mean differs from seed to seed."""

    mean: float
    """Over the baseline's seeds."""
    sd: float
    """Standard deviation over the seeds, with n - 1."""
    low: float
    """The lowest of them."""
    high: float
    """The highest."""
    seeds: int


class Effect(Record):
    """A variant minus another one, in one metric."""

    variant: str
    against: str
    metric: str
    difference: float
    low: float
    high: float
    level: float
    """Nominal coverage of [low, high]."""
    p: float
    """Two-sided, of no difference; not adjusted."""
    sampling_error: float
    """Clustered standard error over the pairs."""
    seed_error: float
    """s sqrt(1/n + 1/m)."""
    degrees_of_freedom: int
    n: int
    """Test pairs; validation pairs for the validation loss."""
    groups: int
    seeds: int
    against_seeds: int
    """0: the base model, which was not trained."""

    @property
    def standard_error(self) -> float:
        """Of the difference, both parts together."""
        return math.hypot(self.sampling_error, self.seed_error)

    def interval(self, level: float) -> tuple[float, float]:
        """A t interval of another coverage."""
        half = t_quantile((1 + level) / 2, self.degrees_of_freedom) * self.standard_error
        return self.difference - half, self.difference + half


@dataclass(frozen=True)
class Sample:
    """One difference per pair, with the groups that the pairs belong to, and how many seeds stand behind it."""

    differences: Sequence[float]
    groups: Sequence[str]
    seeds: int
    against_seeds: int
    weights: Sequence[float] = ()
    """Of each pair in the mean: its tokens, of a validation loss; empty: all alike."""


@dataclass(frozen=True)
class Measurements:
    """What was measured of each pair."""

    scores: Mapping[str, Sequence[Score]]
    """Trial → scores of its tuned system on the test pairs."""
    base: Sequence[Score]
    """Of the untrained base model on the same pairs; none where it was not asked."""
    losses: Mapping[str, Sequence[PairLoss]]
    """Trial → losses on the validation pairs."""


@dataclass(frozen=True)
class Results:
    """The trials of a study by variant, and what was measured of each pair."""

    trials: Mapping[str, Sequence[TrialResult]]
    values: Mapping[str, Mapping[str, Mapping[str, float]]]
    """Metric → trial, or BASE_MODEL → pair → score; of a validation loss the pair's nats."""
    tokens: Mapping[str, Mapping[str, int]]
    """Trial → validation pair → tokens that its nats are of."""
    groups: Mapping[str, str]
    """Pair → group."""
    level: float

    def measured(self, variant: str, metric: str) -> list[Mapping[str, float]]:
        """The pairs of each of a variant's completed trials that have this metric."""
        return [self.values[metric][name] for name in self._names(variant, metric)]

    def weights(self, variant: str, metric: str, pairs: Sequence[str]) -> list[float]:
        """Of `pairs` in a mean of this metric over a variant's trials, which has it."""
        if metric != VALIDATION_LOSS:
            return [1.0] * len(pairs)
        tokens = self.tokens[self._names(variant, metric)[0]]  # the same rows for every seed
        return [float(tokens[pair]) for pair in pairs]

    def _names(self, variant: str, metric: str) -> list[str]:
        names = [trial.name for trial in self.trials.get(variant, ()) if trial.status == "completed"]
        return [name for name in names if name in self.values[metric]]


def gather(trials: Sequence[TrialResult], measured: Measurements, level: float) -> Results:
    """Sort what the trials left behind; the order of the input is of no account.

    Raises RunError when two scores of one pair do not belong together: another group, reference or set of metrics.
    """
    first: dict[str, Score] = {}
    for rows in (measured.base, *(measured.scores[name] for name in sorted(measured.scores))):
        for row in rows:
            check_alike(first.setdefault(row.id, row), row)
    variants = sorted({trial.variant for trial in trials})
    scored = {**measured.scores, **({BASE_MODEL: measured.base} if measured.base else {})}
    groups = {row.id: row.group for rows in scored.values() for row in rows}
    groups |= {row.id: row.group for rows in measured.losses.values() for row in rows}
    values = {
        metric: {name: {row.id: row.metrics[metric] for row in rows} for name, rows in scored.items()}
        for metric in METRICS
    }
    losses = {name: {row.id: row.nats for row in rows} for name, rows in measured.losses.items()}
    return Results(
        trials={
            name: sorted(
                (trial for trial in trials if trial.variant == name), key=lambda trial: (trial.seed, trial.name)
            )
            for name in variants
        },
        values={**values, VALIDATION_LOSS: losses},
        tokens={name: {row.id: row.tokens for row in rows} for name, rows in measured.losses.items()},
        groups=groups,
        level=level,
    )


def noise_floor(results: Results, metric: str) -> NoiseFloor | None:
    """From the baseline's completed trials, on the pairs that they share; None with fewer than two."""
    tables = results.measured(BASELINE, metric)
    shared = _shared(tables) if len(tables) > 1 else []
    if not shared:
        return None
    weight = math.fsum(results.weights(BASELINE, metric, shared))
    means = [math.fsum(table[name] for name in shared) / weight for table in tables]
    return NoiseFloor(mean=fmean(means), sd=stdev(means), low=min(means), high=max(means), seeds=len(means))


def measure(results: Results, variant: str, against: str, metric: str) -> Effect | None:
    """The effect of `variant` against another variant or against BASE_MODEL.

    None where one of the two has no completed trial, or the baseline fewer than two, or they share no test pair.
    """
    noise = noise_floor(results, metric)
    sample = _sample(results, variant, against, metric)
    if noise is None or sample is None:
        return None
    found = estimate_effect(sample, noise, results.level)
    return Effect.model_validate({"variant": variant, "against": against, "metric": metric, **found})


def estimate_effect(sample: Sample, noise: NoiseFloor, level: float) -> dict[str, float]:
    """The numbers of an Effect from the differences alone."""
    weights = sample.weights or [1.0] * len(sample.differences)
    difference, mean_weight = math.fsum(sample.differences) / math.fsum(weights), fmean(weights)
    pairs = zip(sample.differences, weights, strict=True)
    residuals = [(of_pair - difference * weight) / mean_weight for of_pair, weight in pairs]
    sampling = clustered_standard_error(residuals, sample.groups)
    seeds = noise.sd * math.sqrt(sum(1 / count for count in (sample.seeds, sample.against_seeds) if count))
    error, freedom = math.hypot(sampling, seeds), noise.seeds - 1
    half = t_quantile((1 + level) / 2, freedom) * error
    return {
        "difference": difference,
        "low": difference - half,
        "high": difference + half,
        "level": level,
        "p": _two_sided(difference, error, freedom),
        "sampling_error": sampling,
        "seed_error": seeds,
        "degrees_of_freedom": freedom,
        "n": len(sample.differences),
        "groups": len(set(sample.groups)),
        "seeds": sample.seeds,
        "against_seeds": sample.against_seeds,
    }


def t_quantile(share: float, degrees_of_freedom: int) -> float:
    """Of Student's t."""
    from scipy.stats import t

    return float(t.ppf(share, degrees_of_freedom))


def _two_sided(difference: float, error: float, degrees_of_freedom: int) -> float:
    from scipy.stats import t

    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * t.sf(abs(difference) / error, degrees_of_freedom))


def _sample(results: Results, variant: str, against: str, metric: str) -> Sample | None:
    after, untrained = results.measured(variant, metric), results.values[metric].get(BASE_MODEL)
    if against == BASE_MODEL:
        before, seeds = [untrained] if untrained else [], 0
    else:
        before = results.measured(against, metric)
        seeds = len(before)
    shared = _shared([*after, *before]) if after and before else []
    if not shared:
        return None
    differences = [fmean(table[name] for table in after) - fmean(table[name] for table in before) for name in shared]
    groups = [results.groups[name] for name in shared]
    return Sample(differences, groups, len(after), seeds, results.weights(variant, metric, shared))


def _shared(tables: Sequence[Mapping[str, float]]) -> list[str]:
    """The pairs that stand in every table, in order of id."""
    return sorted(set.intersection(*(set(table) for table in tables)))
