"""The tables of a study's report."""

from collections.abc import Sequence

from vademecum.evaluation import METRICS
from vademecum.records import Estimate
from vademecum.report import numbers
from vademecum.report.document import Table
from vademecum.study.analysis import LevelEffects, StudyAnalysis
from vademecum.study.claims import ClaimResult
from vademecum.study.effects import STUDY_METRICS, VALIDATION_LOSS, Effect, NoiseFloor
from vademecum.study.figures import Spot
from vademecum.study.records import BASELINE, TrialResult
from vademecum.study.words import metric_name, pair_name


def claims_table(claims: Sequence[ClaimResult]) -> Table:
    """Every claim with its numbers."""
    rows = tuple(
        (
            claim.name,
            "divergence" if claim.direction == "diverges" else metric_name(claim.metric),
            claim.verdict,
            _signed(claim.difference, claim.low, claim.high),
            numbers.NONE if claim.p_holm is None else numbers.p_value(claim.p_holm),
            numbers.NONE if claim.direction == "diverges" else f"±{numbers.score(claim.margin)}",
            f"{numbers.counted(claim.n, pair_name(claim.metric))}" if claim.n else numbers.NONE,
            f"{claim.seeds} / {claim.against_seeds}" if claim.seeds else numbers.NONE,
        )
        for claim in claims
    )
    head = ("claim", "in", "verdict", "difference", "p after Holm", "margin", "on", "seeds")
    return Table(
        head,
        rows,
        text_columns=3,
        caption="Difference: the claimed variant minus the other one. Margin: declared before the study was run; a "
        "smaller difference is of no account. Seeds: of the claimed variant / of the other one.",
    )


def effects_table(rows: Sequence[LevelEffects], level: float) -> Table:
    """Every level of every factor against the baseline."""
    lines = tuple((row.factor, row.level, *(_effect(row, metric) for metric in STUDY_METRICS)) for row in rows)
    return Table(
        ("factor", "level", *map(metric_name, STUDY_METRICS)),
        lines,
        text_columns=2,
        caption="Level minus baseline on the same test pairs (of the validation loss, validation pairs), with "
        f"{numbers.level(level)} intervals that include the variance between training seeds. Of a validation loss, "
        "less is better.",
    )


def _effect(row: LevelEffects, metric: str) -> str:
    effect = row.effects.get(metric)
    if effect:
        return numbers.signed_estimate({"mean": effect.difference, "low": effect.low, "high": effect.high})
    if row.variant == BASELINE:
        return BASELINE
    return without_effect(row)


def without_effect(row: LevelEffects) -> str:
    """What stands where a level has no number: whether all of its trials diverged, or nothing."""
    return "diverged" if row.diverged and row.diverged == row.trials and not row.completed else numbers.NONE


def noise_table(floors: dict[str, NoiseFloor]) -> Table:
    """What the same recipe comes to with other seeds."""
    rows = tuple(
        (
            metric_name(metric),
            numbers.score(floor.mean),
            f"{floor.sd:.4f}",
            numbers.score(floor.low),
            numbers.score(floor.high),
            str(floor.seeds),
        )
        for metric, floor in floors.items()
    )
    return Table(("metric", "mean", "standard deviation", "lowest", "highest", "seeds"), rows)


def gain_table(analysis: StudyAnalysis) -> Table:
    """The baseline against the untrained base model."""
    rows = tuple(
        (metric_name(metric), numbers.estimate(analysis.base[metric].model_dump()), _gain(effect), f"{effect.n:,}")
        for metric, effect in analysis.gain.items()
    )
    return Table(("metric", "base model, untrained", "baseline minus base model", "test pairs"), rows)


def _gain(effect: Effect) -> str:
    return numbers.signed_estimate({"mean": effect.difference, "low": effect.low, "high": effect.high})


def costs_table(spots: Sequence[Spot], frontier: Sequence[int], quality: str) -> Table:
    """The numbers of the spots, as they are drawn."""
    rows = tuple(
        (
            str(place + 1),
            spot.name,
            numbers.score(spot.score),
            f"{spot.minutes:.1f}",
            "yes" if place in frontier else "",
        )
        for place, spot in enumerate(spots)
    )
    return Table(("no.", "variant", quality, "minutes per trial", "on the frontier"), rows, text_columns=2)


def trials_table(trials: Sequence[TrialResult]) -> Table:
    """One trial a line."""
    rows = tuple(
        (
            trial.variant,
            f"{trial.seed}",
            trial.outcome,
            _loss(trial),
            *(_rouge(trial.metrics.get(metric)) for metric in METRICS),
            f"{trial.minutes:.1f}",
            numbers.gigabytes(trial.peak_memory_bytes),
            f"{trial.optimizer_steps:,}",
            f"{trial.real_tokens:,}",
        )
        for trial in trials
    )
    head = (
        *("variant", "seed", "status", metric_name(VALIDATION_LOSS), *map(metric_name, METRICS)),
        *("minutes", "peak memory", "steps", "tokens"),
    )
    return Table(
        head,
        rows,
        text_columns=3,
        caption="ROUGE of the tuned model with an interval over test pairs, which does not know of other seeds. "
        "Tokens: trained on, padding not counted.",
    )


def _loss(trial: TrialResult) -> str:
    return numbers.NONE if trial.validation_loss is None else numbers.score(trial.validation_loss)


def _rouge(found: Estimate | None) -> str:
    return numbers.estimate(found.model_dump()) if found else numbers.NONE


def _signed(difference: float | None, low: float | None, high: float | None) -> str:
    if difference is None or low is None or high is None:
        return numbers.NONE
    return numbers.signed_estimate({"mean": difference, "low": low, "high": high})
