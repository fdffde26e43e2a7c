"""The report as Markdown. Text from corpora and models is escaped: it stays text, whatever it looks like."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from vademecum.report.document import Block, Case, Cases, Command, Figure, Page, Points, Prose, Statements, Table
from vademecum.report.material import ReportMaterial
from vademecum.report.plain import visible
from vademecum.report.sections import build_page
from vademecum.report.sentences import NOT_ADVICE

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_MARKS = re.compile(r"[\\`*|~$]|(?<!\w)_|_(?!\w)|\](?=\()")

_OPENING = re.compile(r"(?:(?=#)|(?=[-+=](?:[-+=\s]|$))|\d{1,9}(?=[.)](?:\s|$))|(?=\[[^\]]*\]:))")
"""At the start of a paragraph: up to the mark that would make it a heading, a list, a rule or a link's address."""


def render_markdown(report: Mapping[str, Any], material: ReportMaterial, *, public: bool) -> str:
    """The whole report; `public` leaves out every text of the corpus and of the systems."""
    return render_page(build_page(report, material, public=public))


def render_page(page: Page) -> str:
    """A run's or a study's report."""
    lines = [f"# {escape(page.name)}", escape(page.deck), f"*{NOT_ADVICE}*"]
    for section in page.sections:
        lines.append(f"## {section.title}")
        lines.extend(part for block in section.blocks for part in render_block(block))
    return "\n\n".join(lines) + "\n"


def render_block(block: Block) -> Iterator[str]:
    """Paragraphs of Markdown; a figure has none, its numbers stand in the tables and the HTML."""
    match block:
        case Prose():
            yield escape(block.text)
        case Points():
            yield "\n".join(f"- {escape(item)}" for item in block.items)
        case Command():
            yield _fence(visible(block.text))
        case Table():
            yield render_table(block)
            if block.caption:
                yield escape(block.caption)
        case Statements():
            yield "\n".join(f"- **{escape(row.versus)}: {row.verdict}.** {escape(row.text)}" for row in block.rows)
        case Cases():
            for row in block.rows:
                yield from _case(row)
        case Figure():
            return


def render_table(table: Table) -> str:
    """Pipes and dashes; numbers to the right."""
    rule = ["---"] * table.text_columns + ["---:"] * (len(table.columns) - table.text_columns)
    head, *rows = ([escape(cell) for cell in row] for row in (table.columns, *table.rows))
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def escape(text: str) -> str:
    """One line of text that neither Markdown nor HTML takes for anything else."""
    flat = visible(" ".join(text.split()))
    safe = re.sub(r"[&<>]", lambda found: _ENTITIES[found[0]], flat)
    marked = _MARKS.sub(lambda found: "\\" + found[0], safe)
    opening = _OPENING.match(marked)
    return f"{opening[0]}\\{marked[opening.end() :]}" if opening else marked


def _case(case: Case) -> Iterator[str]:
    yield f"### {escape(case.why)}"
    yield f"**Question:** {escape(case.question)}"
    yield f"**Reference:** {escape(case.reference)}"
    for answer in case.answers:
        remark = f"; {answer.remark}" if answer.remark else ""
        yield f"**{escape(answer.system)}** ({answer.score}{remark}): {escape(answer.text)}"


def _fence(text: str) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
