"""From effects to verdicts: each claim of a study is reproduced, contradicted, no real difference or not shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Literal

from vademecum.config import EvaluateConfig
from vademecum.evaluation import holm
from vademecum.evaluation.compare import ALPHA
from vademecum.records import Record
from vademecum.report import numbers
from vademecum.study.declaration import Claim
from vademecum.study.design import Design
from vademecum.study.effects import VALIDATION_LOSS, Effect, NoiseFloor, Results, measure, noise_floor
from vademecum.study.needed import Needed, find_needed, in_words, order_seeds
from vademecum.study.records import BASELINE
from vademecum.study.words import all_of, behind, called, compared, pair_name, sentence, subtracted

StudyVerdict = Literal["reproduced", "contradicted", "no real difference", "not shown"]
FEWEST_SEEN = 2
"""Trials of a variant that a verdict from divergence takes: what one training did, another seed may not."""


class ClaimResult(Record):
    """A claim with its verdict and the numbers behind it; these are None where there are no scores to compare."""

    name: str
    verdict: StudyVerdict
    interim: bool
    """Whether declared trials that it waits for have not ended."""
    variant: str
    """As the trials call it: `baseline` where the claim's level is the baseline's."""
    against: str
    metric: str
    direction: Literal["higher", "lower", "diverges"]
    difference: float | None = None
    """`variant` minus `against`."""
    low: float | None = None
    high: float | None = None
    level: float
    """Nominal coverage of [low, high]."""
    inner_low: float | None = None
    """Of the 90 % interval, which is held against the margin."""
    inner_high: float | None = None
    margin: float
    """Declared before the study was run: a smaller difference would be of no account."""
    p: float | None = None
    """Two-sided, of no difference."""
    p_holm: float | None = None
    """Adjusted by Holm's method over the study's comparisons, those that cannot be judged counted as p = 1; None for
    these."""
    n: int = 0
    """Test pairs; validation pairs for the validation loss."""
    groups: int = 0
    seeds: int = 0
    """Completed trials of `variant`."""
    against_seeds: int = 0
    noise_seeds: int = 0
    """Completed trials of the baseline, whose spread stands for luck."""
    needed: Needed | None = None
    """Where the verdict is `not shown` for want of data."""
    reason: str
    """One plain sentence: the numbers behind the verdict, or why there are none."""


@dataclass(frozen=True)
class Case:
    """A claim, its variants by the names that the trials have, and what was measured."""

    claim: Claim
    variant: str
    against: str
    effect: Effect | None
    noise: NoiseFloor | None
    margin: float


@dataclass(frozen=True)
class Court:
    """What every claim of a study is judged with."""

    design: Design
    results: Results
    evaluate: EvaluateConfig
    same: Sequence[Sequence[str]] = ()
    """Variants that come to the same settings at the study's size: what differs between them is luck."""

    def judge(self, names: Mapping[Claim, tuple[str, str]]) -> tuple[ClaimResult, ...]:
        """All claims, in the order in which they were declared; `names` are those of `variant` and `against`."""
        cases = [self._case(claim, *names[claim]) for claim in self.design.study.claims]
        compared = [case for case in cases if case.claim.compares]
        adjusted = holm([self._p(case) for case in compared])
        by_claim = dict(zip((case.claim for case in compared), adjusted, strict=True))
        return tuple(self._judge(case, by_claim.get(case.claim, 1.0)) for case in cases)

    def _case(self, claim: Claim, variant: str, against: str) -> Case:
        margins, metric = self.design.study.margins, claim.metric
        compared = claim.compares and not self._alike(variant, against)
        return Case(
            claim=claim,
            variant=variant,
            against=against,
            effect=measure(self.results, variant, against, metric) if compared else None,
            noise=noise_floor(self.results, metric) if compared else None,
            margin=margins.validation_loss if metric == VALIDATION_LOSS else margins.rouge,
        )

    def _p(self, case: Case) -> float:
        """Of a comparison that can be judged; 1 for others, so that no verdict depends on when one looks at them."""
        if case.effect is None or case.noise is None or self._awaited(case):
            return 1.0
        return case.effect.p if self._can_be_judged(case.effect, case.noise) else 1.0

    def _judge(self, case: Case, p_holm: float) -> ClaimResult:
        fields: dict[str, object] = {
            "name": case.claim.name,
            "interim": bool(self._awaited(case)),
            "variant": case.variant,
            "against": case.against,
            "metric": case.claim.metric,
            "direction": case.claim.direction,
            "margin": case.margin,
            "level": self.evaluate.level,
        }
        if not case.claim.compares:
            verdict, reason = self._divergence(case)
        elif case.effect is None or case.noise is None:
            verdict, reason = self._without_scores(case)
        elif self._awaited(case):
            verdict, reason = "not shown", self._interim(case.effect, case)
            fields |= _numbers(case.effect, case.noise, None)
        else:
            verdict, found = self._measured(case.effect, case.noise, case, p_holm)
            told = p_holm if self._can_be_judged(case.effect, case.noise) else None
            reason = self._sentence(case.effect, case.noise, case, (verdict, told), found)
            fields |= _numbers(case.effect, case.noise, told) | {"needed": found}
        return ClaimResult.model_validate(fields | {"verdict": verdict, "reason": reason})

    def _measured(
        self, effect: Effect, noise: NoiseFloor, case: Case, p_holm: float
    ) -> tuple[StudyVerdict, Needed | None]:
        if not self._can_be_judged(effect, noise):
            return "not shown", None
        up = 1 if case.claim.direction == "higher" else -1
        if p_holm < ALPHA and (effect.low > 0 or effect.high < 0):
            return ("reproduced" if up * effect.difference > 0 else "contradicted"), None
        if _within(effect, case.margin):
            return "no real difference", None
        minutes = [trial.minutes for rows in self.results.trials.values() for trial in rows if _completed(trial.status)]
        comparisons = sum(claim.compares for claim in self.design.study.claims)
        order = partial(order_seeds, self.design, (case.variant, case.against))
        return "not shown", find_needed(effect, noise, case.margin, comparisons, fmean(minutes), order)

    def _can_be_judged(self, effect: Effect, noise: NoiseFloor) -> bool:
        """Whether there are groups enough, and the baseline's seeds differ."""
        return not self._few_groups(effect) and noise.sd > 0

    def _few_groups(self, effect: Effect) -> bool:
        return effect.groups < self.evaluate.min_groups

    def _sentence(
        self,
        effect: Effect,
        noise: NoiseFloor,
        case: Case,
        judged: tuple[StudyVerdict, float | None],
        found: Needed | None,
    ) -> str:
        verdict, p_holm = judged
        measured = subtracted(effect, p_holm)
        if verdict in ("reproduced", "contradicted"):
            text = f"{compared(effect)} ({behind(effect, p_holm)})"
            if _within(effect, case.margin):
                text += f"; it is smaller than the declared margin of {numbers.score(case.margin)} all the same"
        elif verdict == "no real difference":
            low, high = map(numbers.difference, effect.interval(1 - 2 * ALPHA))
            text = f"{measured}; its 90 % interval, {low} to {high}, lies within ±{numbers.score(case.margin)}"
        elif self._few_groups(effect):
            few = numbers.counted(effect.groups, "group")
            text = f"{measured}; {few} cannot carry a verdict, {self.evaluate.min_groups} are needed"
        elif found is None:
            text = f"{measured}; the baseline's {noise.seeds} seeds do not differ at all, which measures no noise"
        else:
            text = f"{measured}; {in_words(found, case.margin, pair_name(effect.metric))}"
        return self._with_remarks(text, case)

    def _with_remarks(self, text: str, case: Case) -> str:
        """And what is missing: a variant is not judged by its survivors in silence, nor luck by the baseline's."""
        incomplete = [name for name in _sides(case) if self._incomplete(name)]
        return sentence("; ".join([text, *(self._told(name) for name in incomplete)]))

    def _interim(self, effect: Effect, case: Case) -> str:
        """The numbers so far: a verdict before all declared trials have ended would depend on when one looks."""
        awaited = self._awaited(case)
        others = [name for name in _sides(case) if name not in awaited and self._incomplete(name)]
        told = "; ".join(self._told(name) for name in [*awaited, *others])
        return f"Interim, no verdict before all declared trials have ended: so far {subtracted(effect, None)}; {told}."

    def _without_scores(self, case: Case) -> tuple[StudyVerdict, str]:
        if self._alike(case.variant, case.against):
            return "not shown", (
                f"At this size {called(case.variant)} and {called(case.against)} come to the same settings: what "
                "differs between them is luck."
            )
        upward = case.claim.direction == "higher"
        variant_wins = upward == (case.claim.metric != VALIDATION_LOSS)
        winner, loser = (case.variant, case.against) if variant_wins else (case.against, case.variant)
        awaited = self._awaited(case)
        if not awaited and self._outlived(loser, winner):
            return self._if_seen_often("reproduced", self._told_outlived(loser, winner), (loser, winner))
        if not awaited and self._outlived(winner, loser):
            return self._if_seen_often("contradicted", self._told_outlived(winner, loser), (winner, loser))
        incomplete = [name for name in (case.variant, case.against) if self._incomplete(name)]
        reasons = [self._told(name) for name in incomplete]
        if BASELINE not in incomplete and len(self.results.measured(BASELINE, case.claim.metric)) < 2:
            reasons.append("the noise floor takes two completed trials of the baseline or more")
        opening = "Interim, nothing can be compared yet" if awaited else "Nothing can be compared"
        nothing = f"they have no numbers on the same {pair_name(case.claim.metric)}s"
        return "not shown", f"{opening}: {'; '.join(reasons) or nothing}."

    def _outlived(self, diverged: str, completed: str) -> bool:
        """Whether one variant left no scores in any of its trials, and the other did in all of its own."""
        return set(self._statuses(diverged)) == {"diverged"} and not self._incomplete(completed)

    def _told_outlived(self, diverged: str, completed: str) -> str:
        return (
            f"There are no scores to compare: {called(diverged)} diverged in "
            f"{all_of(len(self._statuses(diverged)))}, {called(completed)} in none of its "
            f"{numbers.counted(len(self._statuses(completed)), 'trial')}"
        )

    def _if_seen_often(self, verdict: StudyVerdict, told: str, variants: Sequence[str]) -> tuple[StudyVerdict, str]:
        """A verdict from divergence, where more than one training of each variant says so."""
        once = [name for name in variants if len(self._statuses(name)) < FEWEST_SEEN]
        if not once:
            return verdict, sentence(told)
        written = order_seeds(self.design, once, FEWEST_SEEN).written
        wanted = f"seen in one training, and a verdict takes {FEWEST_SEEN} trials or more: {written}"
        return "not shown", sentence(f"{told}; {wanted}")

    def _divergence(self, case: Case) -> tuple[StudyVerdict, str]:
        trials, unfinished = self.results.trials.get(case.variant, ()), bool(self._awaited(case))
        diverged = [trial for trial in trials if trial.diverged]
        if trials and not unfinished and len(diverged) == len(trials):
            how = f"{called(case.variant)} diverged in {all_of(len(trials))}"
            if above := [trial for trial in diverged if trial.ended_above]:
                ended = ", ".join(numbers.score(trial.validation_loss or 0.0) for trial in above)
                began = ", ".join(dict.fromkeys(numbers.score(trial.untrained_loss or 0.0) for trial in above))
                how += f": the validation loss ended at {ended}, above the untrained model's {began}"
            return self._if_seen_often("reproduced", how, [case.variant])
        if unfinished or diverged or any(trial.status == "failed" for trial in trials):
            told = self._told(case.variant)
            if higher := sum(trial.ended_above for trial in trials):
                told += f"; the validation loss of {higher} of them ended above the untrained model's"
            if unfinished and trials:
                return "not shown", f"Interim, no verdict before all declared trials have ended: {told}."
            return "not shown", f"{told[0].upper()}{told[1:]}."
        count = numbers.counted(len(trials), "trial")
        how = f"{called(case.variant)} diverged in none of its {count}: no number that is not finite"
        if all(trial.untrained_loss is not None for trial in trials):
            how += ", and no validation loss at the end above the untrained model's"
        return self._if_seen_often("contradicted", how, [case.variant])

    def _alike(self, variant: str, against: str) -> bool:
        return variant == against or any(variant in names and against in names for names in self.same)

    def _statuses(self, variant: str) -> list[str]:
        return [trial.status for trial in self.results.trials.get(variant, ())]

    def _declared(self, variant: str) -> int:
        return next(len(one.seeds) for one in self.design.variants if one.name == variant)

    def _awaited(self, case: Case) -> list[str]:
        """Of what a claim is judged by: those with trials that were declared and have not ended."""
        if case.claim.compares and self._alike(case.variant, case.against):
            return []
        return [name for name in _sides(case) if len(self._statuses(name)) < self._declared(name)]

    def _incomplete(self, variant: str) -> bool:
        found = self._statuses(variant)
        return len(found) < self._declared(variant) or not all(map(_completed, found))

    def _told(self, variant: str) -> str:
        """Such as `of the 3 trials of warmup=0, 1 is completed, 1 diverged and 1 has not been run`."""
        found, declared = self._statuses(variant), self._declared(variant)
        if not found:
            return f"{called(variant)} has not been run"
        words = {"completed": "completed", "diverged": "diverged", "failed": "failed", "unchanged": "changed nothing"}
        parts = [f"{found.count(status)} {word}" for status, word in words.items() if status in found]
        if len(found) < declared:
            parts.append(f"{declared - len(found)} not run yet")
        listed = f"{', '.join(parts[:-1])} and {parts[-1]}" if parts[1:] else parts[0]
        return f"of {numbers.counted(max(declared, len(found)), 'trial')} of {called(variant)}: {listed}"


def _sides(case: Case) -> list[str]:
    """What a claim is judged by: both sides of a comparison and the baseline, whose seeds measure the noise; of a
    divergence the variant alone."""
    return list(dict.fromkeys((case.variant, case.against, BASELINE))) if case.claim.compares else [case.variant]


def _numbers(effect: Effect, noise: NoiseFloor, p_holm: float | None) -> dict[str, object]:
    inner_low, inner_high = effect.interval(1 - 2 * ALPHA)
    taken = ("difference", "low", "high", "p", "n", "groups", "seeds", "against_seeds")
    return {
        **{key: getattr(effect, key) for key in taken},
        "p_holm": p_holm,
        "noise_seeds": noise.seeds,
        "inner_low": inner_low,
        "inner_high": inner_high,
    }


def _within(effect: Effect, margin: float) -> bool:
    """Two one-sided tests at 5 %: the 90 % interval lies inside the margin (Schuirmann 1987)."""
    low, high = effect.interval(1 - 2 * ALPHA)
    return -margin < low and high < margin


def _completed(status: str) -> bool:
    return status == "completed"
