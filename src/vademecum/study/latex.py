"""A study's claims and effects as LaTeX tables for a thesis; they need the package booktabs."""

import re
from collections.abc import Sequence

from vademecum.report import numbers
from vademecum.report.plain import visible
from vademecum.study.analysis import StudyAnalysis
from vademecum.study.claims import ClaimResult
from vademecum.study.effects import VALIDATION_LOSS
from vademecum.study.records import BASELINE
from vademecum.study.tables import without_effect
from vademecum.study.words import metric_name

_SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "−": "$-$", "–": "--", "±": r"$\pm$", "×": r"$\times$", "·": r"$\cdot$",
    "…": r"\dots{}", "⟨": r"\textlangle{}", "⟩": r"\textrangle{}", '"': "''",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    **{mark: f"{{{mark}}}" for mark in "[]*-'`"},
}  # fmt: skip
"""`[` and `*` after a line's end would be read as its options."""
_DOUBLED = "-'`"
"""Two of them in a row would melt into another character."""
_ANY = re.compile(
    "|".join(f"{re.escape(mark)}(?={mark})" if mark in _DOUBLED else re.escape(mark) for mark in _SPECIAL)
)

EFFECT_METRICS = ("rouge1", "rouge2", "rougeL", VALIDATION_LOSS)


def render_study_latex(analysis: StudyAnalysis, name: str) -> str:
    """Two tables: the claims with their verdicts, and every level's effect against the baseline."""
    parts = [
        f"% {visible(' '.join(name.split()))}: tables made by Vademecum; in the preamble: \\usepackage{{booktabs}}"
    ]
    if analysis.claims:
        parts.append(_claims(analysis.claims, name, analysis.missing))
    if any(row.effects for row in analysis.factors):
        parts.append(_effects(analysis, name))
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """One line of text that LaTeX takes for nothing else."""
    return _ANY.sub(lambda found: _SPECIAL[found[0]], visible(" ".join(text.split())))


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
    return _table(r"p{0.3\linewidth}lrrrl", head, rows, (caption, "claims"))


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
    return _table("llrrrr", head, rows, (caption, "effects"))


def _estimate(difference: float | None, low: float | None, high: float | None) -> tuple[str, str]:
    if difference is None or low is None or high is None:
        return numbers.NONE, numbers.NONE
    return numbers.difference(difference), f"[{numbers.difference(low)}, {numbers.difference(high)}]"


def _table(columns: str, head: Sequence[str], rows: Sequence[Sequence[str]], named: tuple[str, str]) -> str:
    caption, label = named
    lines = [
        r"\begin{table}",
        r"  \centering",
        r"  \small",
        f"  \\caption{{{caption}}}",
        f"  \\label{{tab:study-{label}}}",
        f"  \\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
        r"    \toprule",
        f"    {' & '.join(cell if cell == '$p$' else escape(cell) for cell in head)} \\\\",
        r"    \midrule",
        *(f"    {' & '.join(map(escape, row))} \\\\" for row in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)
