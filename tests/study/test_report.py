"""A study's report: the claims first, every number in it, no markup from outside, and none of it promised."""

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from markdown_it import MarkdownIt
from tests.study.made_up import Study, build_study

from vademecum.report.latex import escape
from vademecum.report.numbers import NONE
from vademecum.study.analysis import StudyAnalysis
from vademecum.study.latex import render_study_latex
from vademecum.study.report import StudyMaterial, render_study_html, render_study_markdown
from vademecum.study.tables import without_effect

CLAIMS = [
    {"name": "AdamW beats Adafactor", "variant": "optimizer=adamw_torch", "against": "optimizer=adafactor"},
    {"name": "5e-3 diverges", "variant": "learning_rate=5e-3", "direction": "diverges"},
    {"name": "Warmup matters", "variant": "warmup=200", "against": "warmup=0", "metric": "rouge1"},
]
HOSTILE = "<script>alert(1)</script> | `x` *b* [y](z) \\input{a} $ % # & _ ~ ^ { } {{ 7*7 }} \x1b \u202e"


@pytest.fixture(scope="module")
def study() -> Study:
    effects = {"optimizer=adafactor": -0.05, "learning_rate=5e-3": 0.0, "warmup=0": 0.0, "warmup=200": 0.003}
    made = build_study(effects, CLAIMS, seeds=1)
    return made.ended("diverged", "learning_rate=5e-3-seed0")


@pytest.fixture(scope="module")
def analysis(study: Study) -> StudyAnalysis:
    return study.analysed()


def material(study: Study, text: str = "") -> StudyMaterial:
    return StudyMaterial(
        name=f"paper-study{text}",
        config=study.config,
        base=f"SmolLM2-135M-Instruct{text}",
        corpus=f"MedQuAD{text}",
        train_pairs=400,
        device=f"cpu, float32{text}",
        versions={"vademecum": "0.2.0", "torch": f"2.13.0{text}"},
        command=f"vade study paper-study{text}",
        remarks=(f"Warmup counts were kept in proportion.{text}",),
    )


class Page(HTMLParser):
    """Every tag with its attributes, and that tags close in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("render", [render_study_markdown, render_study_html])
def test_the_sections_come_in_order(render: Callable[..., str], analysis: StudyAnalysis, study: Study) -> None:
    headings = re.findall(r"(?:<h2>|^## )(.*?)(?:</h2>|$)", render(analysis, material(study)), re.MULTILINE)
    assert headings == [
        "Claims", "Effects per factor", "Noise floor", "Cost against quality", "Trials", "How it was done", "Limits",
    ]  # fmt: skip


def test_every_claim_opens_with_its_verdict_and_its_sentence(analysis: StudyAnalysis, study: Study) -> None:
    text = render_study_markdown(analysis, material(study))
    for claim in analysis.claims:
        assert f"- **{claim.name}: {claim.verdict}.** " in text
    assert {claim.verdict for claim in analysis.claims} == {"reproduced", "not shown"}
    assert text.index("AdamW beats Adafactor: reproduced") < text.index("## Effects")
    assert "Of 3 claims: 2 not shown, 1 reproduced." in text


def test_the_numbers_of_the_analysis_stand_in_it(analysis: StudyAnalysis, study: Study) -> None:
    text = render_study_markdown(analysis, material(study))
    effect = next(row for row in analysis.factors if row.variant == "optimizer=adafactor").effects["rougeL"]
    assert f"{effect.difference:.3f} [{effect.low:.3f}, {effect.high:.3f}]".replace("-", "−") in text
    assert f"| {analysis.noise_floor['rougeL'].sd:.4f} |" in text
    assert "| learning_rate | 5e-3 | diverged | diverged" in text
    assert "- learning_rate=5e-3-seed0: diverged; made up." in text
    assert "| train pairs | 400, the same in every trial |" in text
    assert "not run yet: learning_rate=5e-5, seed 0." in text


def test_single_seeds_and_left_out_trials_are_among_the_limits(study: Study) -> None:
    limits = render_study_markdown(study.analysed(), material(study)).partition("## Limits")[2]
    assert "trained with a single seed" in limits and "left out" not in limits
    mixed = study.ended("failed", "baseline-seed4")
    text = render_study_markdown(mixed.analysed(), material(mixed))
    assert "left out: the baseline (1 of 5)" in text
    assert "that of the baseline (4 completed seeds)" in text and "the baseline (5 completed seeds)" in limits


def test_seeds_that_were_added_after_a_verdict_are_among_the_limits(study: Study) -> None:
    said = "Trials ended after a verdict had been given without them (baseline, seed 5)."
    for late in ((), ("baseline, seed 5",)):
        text = render_study_markdown(study.analysed(), replace(material(study), late_seeds=late))
        assert (said in text.partition("## Limits")[2]) is bool(late)


def test_the_page_needs_nothing_else_and_shows_its_drawings(analysis: StudyAnalysis, study: Study) -> None:
    page = render_study_html(analysis, material(study))
    tags = Page(page).tags
    assert not {tag for tag, _ in tags} & {"script", "link", "img", "iframe", "object", "base", "form"}
    assert not re.search(r"@import|url\(|src=", page)
    places = {attributes.get("id") for _, attributes in tags}
    assert {str(attributes["href"])[1:] for _, attributes in tags if "href" in attributes} <= places
    assert page.count('role="img"') == 2 + 3 + 1  # effects in two metrics, three factors, cost
    for verdict in ("reproduced", "not shown"):
        assert f'<span class="badge {verdict.replace(" ", "-")}">{verdict}</span>' in page
    assert "<title>paper-study · Vademecum study</title>" in page


def test_text_from_outside_stays_text(analysis: StudyAnalysis, study: Study) -> None:
    claims = [claim.model_copy(update={"name": f"{claim.name}{HOSTILE}"}) for claim in analysis.claims]
    factors = [
        row.model_copy(update={"factor": f"{row.factor}{HOSTILE}", "level": f"{row.level}{HOSTILE}"})
        for row in analysis.factors
    ]
    trials = [trial.model_copy(update={"remark": f"x{HOSTILE}"}) for trial in analysis.trials]
    plain = [trial.model_copy(update={"remark": "x"}) for trial in analysis.trials]
    hostile = analysis.model_copy(update={"claims": claims, "factors": factors, "trials": trials})
    harmless = analysis.model_copy(update={"trials": plain})

    page = render_study_html(hostile, material(study, HOSTILE))
    names = [tag for tag, _ in Page(page).tags]
    assert names == [tag for tag, _ in Page(render_study_html(harmless, material(study))).tags]
    assert "\x1b" not in page and "\u202e" not in page

    def kinds(markdown: str) -> list[str]:
        tokens = MarkdownIt("commonmark").enable(["table"]).parse(markdown)
        return [child.type for token in tokens for child in [token, *(token.children or [])] if child.type != "text"]

    shown = kinds(render_study_markdown(hostile, material(study, HOSTILE)))
    assert shown == kinds(render_study_markdown(harmless, material(study)))
    rows_are_whole(render_study_latex(hostile, HOSTILE))


def rows_are_whole(latex: str) -> None:
    """Braces close, every row has its columns, and nothing special stands unescaped."""
    bare = re.sub(r"(?m)^%.*$", "", latex)
    depth = 0
    for brace in re.sub(r"\\[{}\\]", "", bare):
        depth += {"{": 1, "}": -1}.get(brace, 0)
        assert depth >= 0
    assert depth == 0
    for table in re.findall(r"\\toprule\n(.*?)\\bottomrule", bare, re.DOTALL):
        lines = [line for line in table.splitlines() if line.strip() and "rule" not in line]
        counts = {len(re.findall(r"(?<!\\)&", line)) for line in lines}
        assert len(counts) == 1
        for line in lines:
            inside = line.strip().removesuffix("\\\\")
            assert not re.search(r"(?<!\\)[%#_]|[\^~\[\]](?![}])|\\\\", inside)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", latex)


def test_the_tables_are_booktabs_with_every_claim_and_level(analysis: StudyAnalysis) -> None:
    latex = render_study_latex(analysis, "paper_study")
    rows_are_whole(latex)
    assert latex.count(r"\toprule") == latex.count(r"\midrule") == latex.count(r"\bottomrule") == 2
    for claim in analysis.claims:
        assert re.search(rf"^ *{re.escape(claim.name)} & .* & {claim.verdict} \\\\$", latex, re.MULTILINE)
    assert r"optimizer & adafactor & $-$0.0" in latex
    assert r"learning\_rate & 5e-3 & diverged & diverged & diverged & diverged \\" in latex


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50 % & more_of #1", r"50 \% \& more\_of \#1"),
        ("a\\b{c}", r"a\textbackslash{}b\{c\}"),
        ("[x] *", "{[}x{]} {*}"),
        ("−0.1 – 5e-3", "$-$0.1 -- 5e-3"),
        ("a--b", "a{-}-b"),
        ('Holm\'s "p"', "Holm's ''p''"),
        ("two\nlines", "two lines"),
    ],
)
def test_latex_is_escaped(text: str, expected: str) -> None:
    assert escape(text) == expected


@pytest.mark.parametrize("kept", [0, 1, 2, 6])
def test_an_unfinished_study_has_its_report_too(study: Study, kept: int) -> None:
    part = study.without(*(trial.name for trial in study.trials[kept:]))
    found = part.analysed()
    text = render_study_markdown(found, material(study))
    Page(render_study_html(found, material(study)))
    rows_are_whole(render_study_latex(found, "part"))
    assert "declared trial" in text and "## Limits" in text
    assert {claim.verdict for claim in found.claims} <= {"not shown", "reproduced"}
    assert ("It takes two completed trials" in text) is (kept < 2)
    latex = render_study_latex(found, "part")
    assert latex.count(f"Interim: {len(found.missing)} declared trials not run yet.") == latex.count(r"\caption") > 0


def test_a_training_that_ended_worse_than_it_began_is_shown_as_what_it_is() -> None:
    rate, claim = (
        "learning_rate=5e-3",
        {"name": "it diverges", "variant": "learning_rate=5e-3", "direction": "diverges"},
    )
    study = build_study({rate: 0.0}, [claim])
    above = {"validation_loss": (study.trials[0].untrained_loss or 0) + 1}
    study.trials = [one.model_copy(update=above) if one.variant == rate else one for one in study.trials]
    text = render_study_markdown(study.analysed(), material(study))
    assert text.count("| completed, worse than untrained |") == 2
    assert 'class="cross"' in render_study_html(study.analysed(), material(study))


def test_a_level_is_called_diverged_where_all_of_its_trials_are() -> None:
    study = build_study({"learning_rate=5e-3": 0.0})
    only = study.without(*(f"baseline-seed{seed}" for seed in range(1, 5)))  # nothing to compare with yet
    for count, words in ((1, NONE), (2, "diverged")):
        part = only.ended("diverged", *(f"learning_rate=5e-3-seed{seed}" for seed in range(count)))
        assert [without_effect(row) for row in part.analysed().factors if row.level == "5e-3"] == [words]


def test_a_study_without_claims_describes(study: Study, analysis: StudyAnalysis) -> None:
    silent = analysis.model_copy(update={"claims": ()})
    found: Any = material(study)
    assert "The study declares no claim" in render_study_markdown(silent, found)
    assert "study-claims" not in render_study_latex(silent, "x") and "study-effects" in render_study_latex(silent, "x")
