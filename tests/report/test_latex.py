"""The tables in LaTeX say what the report says, and nothing in them is taken for a command."""

from typing import Any

from vademecum.report.latex import escape, render_latex
from vademecum.report.tables import comparisons_table, systems_table


def rows_of(latex: str) -> list[list[str]]:
    """Cells of every row, heads too."""
    lines = [line.strip() for line in latex.splitlines()]
    return [line.removesuffix(r" \\").split(" & ") for line in lines if line.endswith(r" \\")]


def test_every_row_of_the_report_s_tables_is_there(report: dict[str, Any]) -> None:
    found = rows_of(render_latex(report, "demo"))
    tables = [systems_table(report), comparisons_table(report)]
    assert found == [[escape(cell) for cell in row] for table in tables for row in (table.columns, *table.rows)]


def test_the_tables_are_closed_and_can_be_referred_to(report: dict[str, Any]) -> None:
    latex = render_latex(report, "demo")
    for part in ("table", "tabular"):
        assert latex.count(f"\\begin{{{part}}}") == latex.count(f"\\end{{{part}}}") == 2
    assert r"\label{tab:run-scores}" in latex and r"\label{tab:run-differences}" in latex


def test_a_run_s_name_is_no_command(report: dict[str, Any]) -> None:
    latex = render_latex(report, "50%_of\\input{x}")
    assert r"\input" not in latex.partition("\n")[2]
    assert r"50\%\_of\textbackslash{}input\{x\}" in latex
