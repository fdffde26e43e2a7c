"""The report as Markdown."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vademecum.report import ReportMaterial, build_report, render_card, render_html, render_markdown
from vademecum.report.document import Command, Table
from vademecum.report.markdown import escape, render_block, render_table


def test_the_verdict_comes_first_and_the_limits_last(report: dict[str, Any], material: ReportMaterial) -> None:
    headings = [line for line in render_markdown(report, material, public=False).splitlines() if line.startswith("## ")]
    assert headings[0] == "## Verdict"
    assert headings[-1] == "## Limits"
    assert {"## Paired differences", "## Leakage audit", "## Supervision audit", "## Slices"} <= set(headings)


def test_every_table_is_whole(report: dict[str, Any], material: ReportMaterial) -> None:
    lines = render_markdown(report, material, public=False).splitlines()
    rules = [number for number, line in enumerate(lines) if line.startswith("| ---")]
    assert len(rules) >= 10
    for rule in rules:
        bars = lines[rule].count("|")
        after = rule + 1
        while after < len(lines) and lines[after].startswith("|"):
            assert lines[after].replace("\\|", "").count("|") == bars
            after += 1
        assert after > rule + 1


def test_numbers_of_the_report_stand_in_it(report: dict[str, Any], material: ReportMaterial) -> None:
    text = render_markdown(report, material, public=False)
    tuned = report["systems"]["tuned"]["metrics"]["rouge1"]
    assert f"{tuned['mean']:.3f} [{tuned['low']:.3f}, {tuned['high']:.3f}]" in text
    assert "removed: exact duplicate | 3 |" in text
    assert "| record number | 2 |" in text and "| phone | 1,204 |" in text
    assert report["signature"] in text and report["run"]["command"] in text


def test_public_leaves_out_every_text_of_the_corpus(report: dict[str, Any], material: ReportMaterial) -> None:
    shown, public = (render_markdown(report, material, public=public) for public in (False, True))
    assert "zyxwv-corpus-marker" in shown and "## Answers side by side" in shown
    assert "zyxwv-corpus-marker" not in public and "## Answers side by side" not in public


def test_planted_markup_stays_text(report: dict[str, Any], material: ReportMaterial) -> None:
    text = render_markdown(report, material, public=False)
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_a_run_without_tuned_has_its_report(untrained_report: dict[str, Any], untrained: ReportMaterial) -> None:
    text = render_markdown(untrained_report, untrained, public=False)
    assert "## What was compared" in text
    assert "## Loss" not in text and "tuned" not in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a | b", "a \\| b"),
        ("*bold* _it_", "\\*bold\\* \\_it\\_"),
        ("max_length", "max_length"),
        ("[x](http://x)", "[x\\](http://x)"),
        ("two\n# lines", "two # lines"),
        ("a < b & c", "a &lt; b &amp; c"),
        ("[0.1, 0.2]", "[0.1, 0.2]"),
        ("- a", "\\- a"),
        ("---", "\\---"),
        ("-0.1", "-0.1"),
        ("+0.036", "+0.036"),
        ("# a", "\\# a"),
        ("12. a", "12\\. a"),
        ("1.5 a", "1.5 a"),
        ("[a]: http://h", "\\[a]: http://h"),
        ("a\x1b[31mb\u202e", "a⟨U+001B⟩[31mb⟨U+202E⟩"),
    ],
)
def test_markup_is_escaped(text: str, expected: str) -> None:
    assert escape(text) == expected


@given(st.text())
def test_a_cell_never_breaks_its_row(text: str) -> None:
    rows = render_table(Table(("a", "b"), ((text, "1"),))).split("\n")
    assert len(rows) == 3
    assert rows[2].replace("\\|", "").count("|") == 3 or text.endswith("\\")


@given(st.text(alphabet="`a\n"))
def test_a_command_cannot_close_its_fence(text: str) -> None:
    lines = "".join(render_block(Command(text))).split("\n")
    fence = lines[-1]
    assert fence not in lines[1:-1]


def test_changes_of_course_void_the_promise_in_plain_words(adapted: ReportMaterial) -> None:
    report = build_report(adapted)
    assert [event["change"] for event in report["training"]["events"]] == ["micro_batches_halved", "steps_cut"]
    markdown = render_markdown(report, adapted, public=True)
    for page in (markdown, render_html(report, adapted, public=True), render_card(report, adapted)):
        assert "is not promised to give the same adapter again" in page
        assert "after step 90: out of memory" in page
        assert "180 optimizer steps instead of 207" in page
    assert "| optimizer steps | 180; planned were 207" in markdown


def test_a_diverged_training_opens_the_report(diverged: ReportMaterial) -> None:
    markdown = render_markdown(build_report(diverged), diverged, public=False)
    assert "## Verdict\n\nTraining diverged after 0 optimizer steps: the loss of step 1 is nan." in markdown
    assert "| status | diverged |" in markdown
    assert "adapted with LoRA" not in markdown
