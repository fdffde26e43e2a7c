"""The report as one HTML file."""

import dataclasses
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from vademecum.report import ReportMaterial, build_report, render_html

VOID = {"meta", "br", "hr", "img", "link"}


class Outline(HTMLParser):
    """Checks that tags close in order, and remembers what is asked of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs), tuple(self.open)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    assert not parser.open
    return parser


@pytest.fixture(scope="module")
def page(report: dict[str, Any], material: ReportMaterial) -> str:
    return render_html(report, material, public=False)


def test_the_page_needs_nothing_else(page: str) -> None:
    tags = outline(page).seen
    assert not {tag for tag, _, _ in tags} & {"script", "link", "img", "iframe", "object", "base", "form"}
    assert all(not name.startswith("on") for _, attributes, _ in tags for name in attributes)
    links = [attributes["href"] for _, attributes, _ in tags if "href" in attributes]
    assert links and all(str(link).startswith("#") for link in links)
    assert not re.search(r"@import|url\(|src=", page)


def test_links_lead_to_sections(page: str) -> None:
    tags = outline(page).seen
    places = {attributes.get("id") for _, attributes, _ in tags}
    assert {str(attributes["href"])[1:] for _, attributes, _ in tags if "href" in attributes} <= places


def test_the_verdict_comes_first(page: str) -> None:
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings[0] == "Verdict"
    assert headings[-1] == "Limits"
    assert page.index("tuned scores") < page.index("<table") < page.index("Paired differences</h2>")


def test_every_table_scrolls_inside_its_box(page: str) -> None:
    parser = outline(page)
    tables = [attributes for tag, attributes, _ in parser.seen if tag == "table"]
    boxes = [attributes for _, attributes, _ in parser.seen if attributes.get("class") == "scroll"]
    assert len(tables) == len(boxes) >= 10
    assert all(box["tabindex"] == "0" for box in boxes)


def test_three_drawings_have_names(page: str) -> None:
    assert page.count('role="img"') == 3
    for title in ("Forest plot", "Loss per trained token", "Rows by length in tokens"):
        assert f"<title>{title}" in page


def test_dark_print_and_phone_have_their_styles(page: str) -> None:
    for rule in ("prefers-color-scheme: dark", "@media print", "max-width: 40rem", "width=device-width"):
        assert rule in page


def test_planted_markup_stays_text(page: str) -> None:
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#39;planted&#39;)&lt;/script&gt;" in page


def test_names_from_outside_are_escaped_too(material: ReportMaterial) -> None:
    cleaning = {**material.cleaning, "source": "/data/<u>pairs.csv"}
    pairs = {name: pair.model_copy(update={"source": "<i>x</i>"}) for name, pair in material.pairs.items()}
    hostile = dataclasses.replace(material, name="<u>run</u>", cleaning=cleaning, pairs=pairs, command="vade run '<s>'")
    page = render_html(build_report(hostile), hostile, public=True)
    assert not re.search(r"<[ius]>", page)
    assert "&lt;i&gt;x&lt;/i&gt;" in page
    assert "/data/" not in page


def test_public_leaves_out_every_text_of_the_corpus(
    page: str, report: dict[str, Any], material: ReportMaterial
) -> None:
    assert page.count('<article class="case">') == 6
    public = render_html(report, material, public=True)
    assert "zyxwv-corpus-marker" in page
    assert "zyxwv-corpus-marker" not in public and "Answers side by side" not in public


def test_a_run_without_tuned_has_its_page(untrained_report: dict[str, Any], untrained: ReportMaterial) -> None:
    page = render_html(untrained_report, untrained, public=False)
    outline(page)
    assert "copy against base" in page
    assert "Loss per trained token" not in page


def test_one_system_alone_has_its_page(material: ReportMaterial) -> None:
    alone = dataclasses.replace(
        material,
        training=None,
        training_rows=[],
        scores={"base": material.scores["base"]},
        predictions={"base": material.predictions["base"]},
    )
    page = render_html(build_report(alone), alone, public=False)
    assert "nothing to compare it with" in page
    assert "Paired differences" not in page
