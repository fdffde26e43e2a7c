"""Tables in LaTeX for a thesis or a paper; they need the package booktabs."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vademecum.report import tables
from vademecum.report.plain import visible

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


def render_latex(report: Mapping[str, Any], name: str) -> str:
    """Two tables of a run: the systems' scores, and every paired difference with its verdict."""
    scores, differences = tables.systems_table(report), tables.comparisons_table(report)
    evaluate = report["config"]["evaluate"]
    against = (
        f"Paired differences of {escape(name)}: approximate randomisation by groups, $p$ adjusted by Holm's method; "
        f"verdicts need {evaluate['min_groups']} groups. What could not have been shown stands in the last column."
    )
    parts = (
        comment(name),
        latex_table(
            "lrrrrrr", scores.columns, scores.rows, (f"{escape(name)}. {escape(scores.caption)}", "run-scores")
        ),
        latex_table("lllrrrr", differences.columns, differences.rows, (against, "run-differences")),
    )
    return "\n\n".join(parts) + "\n"


def comment(name: str) -> str:
    """The first line of a file of tables."""
    return f"% {visible(' '.join(name.split()))}: tables made by Vademecum; in the preamble: \\usepackage{{booktabs}}"


def escape(text: str) -> str:
    """One line of text that LaTeX takes for nothing else."""
    return _ANY.sub(lambda found: _SPECIAL[found[0]], visible(" ".join(text.split())))


def latex_table(columns: str, head: Sequence[str], rows: Sequence[Sequence[str]], named: tuple[str, str]) -> str:
    """A table with columns such as `llr`; `named` is its caption, in LaTeX already, and its label after `tab:`."""
    caption, label = named
    lines = [
        r"\begin{table}",
        r"  \centering",
        r"  \small",
        f"  \\caption{{{caption}}}",
        f"  \\label{{tab:{label}}}",
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
