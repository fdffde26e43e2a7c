"""A study's claims and effects as LaTeX tables for a thesis; they need the package booktabs."""

from collections.abc import Sequence

from vademecum.report import numbers
from vademecum.report.latex import comment, escape, latex_table
from vademecum.study.analysis import StudyAnalysis
from vademecum.study.claims import ClaimResult
from vademecum.study.effects import VALIDATION_LOSS
from vademecum.study.records import BASELINE
from vademecum.study.tables import without_effect
from vademecum.study.words import metric_name

EFFECT_METRICS = ("rouge1", "rouge2", "rougeL", VALIDATION_LOSS)


def render_study_latex(analysis: StudyAnalysis, name: str) -> str:
    """Two tables: the claims with their verdicts, and every level's effect against the baseline."""
    parts = [comment(name)]
    if analysis.claims:
        parts.append(_claims(analysis.claims, name, analysis.missing))
    if any(row.effects for row in analysis.factors):
        parts.append(_effects(analysis, name))
    return "\n\n".join(parts) + "\n"


def _interim(missing: Sequence[str]) -> str:
    return f" Interim: {numbers.counted(len(missing), 'declared trial')} not run yet." if missing else ""


def _claims(claims: Sequence[ClaimResult], name: str, missing: Sequence[str]) -> str:
    rows = [
        (
            claim.name,
            metric_name(claim.metric) if claim.direction != "diverges" else "divergence",
            *_estimate(claim.difference, claim.low, claim.high),
            numbers.p_value(claim.p_holm) if claim.p_holm is not None else numbers.NONE,
            claim.verdict,
        )
        for claim in claims
    ]
    level = numbers.level(claims[0].level)
    caption = (
        f"The claims of {escape(name)}. Differences are paired, on test pairs or, of the validation loss, on "
        f"validation pairs; the {escape(level)} intervals include the variance between training seeds; $p$ is adjusted "
        f"by Holm's method over all comparisons.{_interim(missing)}"
    )
    head = ("Claim", "Metric", "Difference", f"{level} interval", "$p$", "Verdict")
    return latex_table(r"p{0.3\linewidth}lrrrl", head, rows, (caption, "study-claims"))


def _effects(analysis: StudyAnalysis, name: str) -> str:
    rows, levels = [], []
    for row in analysis.factors:
        cells = []
        for metric in EFFECT_METRICS:
            effect = row.effects.get(metric)
            if effect:
                levels.append(effect.level)
                half = (effect.high - effect.low) / 2
                cells.append(f"{numbers.difference(effect.difference)} ± {numbers.score(half)}")
            else:
                cells.append("baseline" if row.variant == BASELINE else without_effect(row))
        rows.append((row.factor, row.level, *cells))
    caption = (
        f"Each level of {escape(name)} against the baseline, with {escape(numbers.level(levels[0]))} intervals that "
        "include the variance between training seeds. These effects describe; they are not tested."
        f"{_interim(analysis.missing)}"
    )
    head = ("Factor", "Level", *map(metric_name, EFFECT_METRICS))
    return latex_table("llrrrr", head, rows, (caption, "study-effects"))


def _estimate(difference: float | None, low: float | None, high: float | None) -> tuple[str, str]:
    if difference is None or low is None or high is None:
        return numbers.NONE, numbers.NONE
    return numbers.difference(difference), f"[{numbers.difference(low)}, {numbers.difference(high)}]"
