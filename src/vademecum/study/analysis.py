"""From a study's trials to `study.json`: trials, effects per factor, the noise floor, and a verdict on each claim."""

from collections.abc import Iterator, Sequence
from typing import Literal

from vademecum.config import EvaluateConfig
from vademecum.evaluation import METRICS, estimate
from vademecum.records import Estimate, Record, Score
from vademecum.study.claims import ClaimResult, Court
from vademecum.study.design import Design
from vademecum.study.effects import (
    BASE_MODEL,
    STUDY_METRICS,
    VALIDATION_LOSS,
    Effect,
    Measurements,
    NoiseFloor,
    Results,
    gather,
    measure,
    noise_floor,
)
from vademecum.study.records import BASELINE, TrialResult


class LevelEffects(Record):
    """One level of one factor against the baseline. These effects describe: the claims alone are tested."""

    factor: str
    level: str
    variant: str
    trials: int
    """That have ended."""
    completed: int
    diverged: int
    effects: dict[str, Effect]
    """By metric, `validation_loss` among them; empty for the baseline itself and where there is nothing to compare."""


class StudyAnalysis(Record):
    """What a study came to, and all that its report is made from: study.json. It holds no text of the corpus."""

    form: Literal["vademecum.study/1"] = "vademecum.study/1"
    trials: tuple[TrialResult, ...]
    missing: tuple[str, ...]
    """Trials that were declared and have not ended: `warmup=0, seed 2`."""
    factors: tuple[LevelEffects, ...]
    noise_floor: dict[str, NoiseFloor]
    """By metric; empty with fewer than two completed trials of the baseline."""
    base: dict[str, Estimate]
    """ROUGE of the untrained base model."""
    gain: dict[str, Effect]
    """The baseline minus the untrained base model, by ROUGE metric: what training is worth at all."""
    claims: tuple[ClaimResult, ...]


def analyse(
    design: Design,
    trials: Sequence[TrialResult],
    measured: Measurements,
    evaluate: EvaluateConfig,
    same: Sequence[Sequence[str]] = (),
) -> StudyAnalysis:
    """All that can be said of a study, finished or not; the order of the input is of no account.

    `same` are variants that come to the same settings at this study's size. Raises RunError when two scores of one pair
    do not belong together.
    """
    results = gather([trial.finite() for trial in trials], measured, evaluate.level)
    floors = {metric: noise_floor(results, metric) for metric in STUDY_METRICS}
    gains = {metric: measure(results, BASELINE, BASE_MODEL, metric) for metric in METRICS}
    meant = {claim: (design.aliases[claim.variant], design.aliases[claim.against]) for claim in design.study.claims}
    declared = [variant.name for variant in design.variants]
    return StudyAnalysis(
        trials=tuple(trial for name in declared for trial in results.trials.get(name, ())),
        missing=tuple(_missing(design, results)),
        factors=tuple(_levels(design, results)),
        noise_floor={metric: floor for metric, floor in floors.items() if floor},
        base=_estimates(sorted(measured.base, key=lambda row: row.id), evaluate),
        gain={metric: gain for metric, gain in gains.items() if gain},
        claims=Court(design, results, evaluate, same).judge(meant),
    )


def _missing(design: Design, results: Results) -> Iterator[str]:
    for variant in design.variants:
        done = {trial.seed for trial in results.trials.get(variant.name, ())}
        yield from (f"{variant.name}, seed {seed}" for seed in variant.seeds if seed not in done)


def _levels(design: Design, results: Results) -> list[LevelEffects]:
    named = [(factor, level, variant) for factor, levels in design.factors.items() for level, variant in levels.items()]
    rows = []
    for factor, level, variant in named:
        found = results.trials.get(variant, ())
        effects = {
            metric: measure(results, variant, BASELINE, metric)
            for metric in STUDY_METRICS
            if variant != BASELINE
            and (metric != VALIDATION_LOSS or design.loss_tokens[variant] == design.loss_tokens[BASELINE])
        }
        rows.append(
            LevelEffects(
                factor=factor,
                level=level,
                variant=variant,
                trials=len(found),
                completed=sum(trial.status == "completed" for trial in found),
                diverged=sum(trial.diverged for trial in found),
                effects={metric: effect for metric, effect in effects.items() if effect},
            )
        )
    return rows


def _estimates(scores: Sequence[Score], evaluate: EvaluateConfig) -> dict[str, Estimate]:
    if not scores:
        return {}
    groups = [row.group for row in scores]
    return {
        metric: estimate(
            [row.metrics[metric] for row in scores], groups, level=evaluate.level, resamples=evaluate.resamples, seed=0
        )
        for metric in METRICS
    }
