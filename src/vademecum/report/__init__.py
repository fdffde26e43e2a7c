"""A finished run on paper: report.json (`content`), Markdown, HTML, tables in LaTeX, and the adapter's model card."""

from vademecum.report.card import render_card
from vademecum.report.content import base_in_words, build_report
from vademecum.report.html import render_html
from vademecum.report.latex import render_latex
from vademecum.report.markdown import render_markdown
from vademecum.report.material import ReportMaterial
from vademecum.report.numbers import file_name
from vademecum.report.sentences import changes, why_untrained

__all__ = [
    "ReportMaterial",
    "base_in_words",
    "build_report",
    "changes",
    "file_name",
    "render_card",
    "render_html",
    "render_latex",
    "render_markdown",
    "why_untrained",
]
