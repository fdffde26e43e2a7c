"""Text from corpora, models, names and settings stays text: the page has the same tags and blocks whatever it says."""

import dataclasses
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from tests.report.conftest import build_material

from vademecum.report import ReportMaterial, build_report, render_html, render_markdown

HOSTILE = [
    "<script>alert(1)</script>", "</script>", "<img src=x onerror=alert(1)>", "</p></div></main>", "<!--", "-->", "]]>",
    "\"'><svg onload=alert(1)>", "javascript:alert(1)", "[x](javascript:alert(1))", "![x](http://h/x.png)", "<http://h>",
    "[x]: http://h", "{{ 7*7 }}", "{% raw %}", "{question}", "${x}", "`", "```", "~~~", "|", "\\|", "\\", "*", "**",
    "_", "# ", "\n# ", "\n\n", "\n---\n", "\n- ", "1. ", "\n    ", "> ", "&lt;", "&#60;", "&amp;", "\0", "\x1b[31m",
    "\x07", "\x85", "\u2028", "\u202e", "\u2066", "\u200f", "\ufeff", "\U0001f469\u200d\u2695\ufe0f", "e\u0301",
    "\r", "\t", " [0.1, 0.2]", "better", "not shown", "· ", "::: ", "$$", "<details>",
]  # fmt: skip
texts = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=6), min_size=1, max_size=5).map("".join)
BOUNDED = pytest.mark.parametrize("examples", [15, pytest.param(500, marks=pytest.mark.slow)])
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def dressed(plain: ReportMaterial, text: str) -> ReportMaterial:
    """The run with a text in every place that comes from outside; what was different stays different."""

    def told(value: str) -> str:
        return f"{text} {value}" if value else text

    pairs = {
        name: pair.model_copy(
            update={
                field: told(getattr(pair, field)) for field in ("question", "answer", "focus", "qtype", "source", "url")
            }
        )
        for name, pair in plain.pairs.items()
    }
    predictions = {
        system: [row.model_copy(update={"text": told(row.text)}) for row in rows]
        for system, rows in plain.predictions.items()
    }
    config = plain.config
    prompt = config.prompt.model_copy(update={"system": text, "instruction": text})
    model = config.model.model_copy(update={"name": told("model"), "revision": text})
    corpus = config.corpus.model_copy(update={"source": told("corpus.csv"), "columns": {"question": text}})
    lora = config.lora.model_copy(update={"target_modules": (text, "q_proj")})
    return dataclasses.replace(
        plain,
        name=told("run"),
        command=told("vade run"),
        base="a local directory",
        config=config.model_copy(update={"prompt": prompt, "model": model, "corpus": corpus, "lora": lora}),
        cleaning={**plain.cleaning, "source": told("corpus.csv")},
        plan={**plain.plan, "dtype_reason": told("measured"), "base": "a local directory"},
        pairs=pairs,
        predictions=predictions,
    )


class Tags(HTMLParser):
    """Every tag with its attributes, in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, object]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.found.append((tag, "end"))

    def handle_comment(self, data: str) -> None:
        self.found.append(("comment", data))


def blocks(page: str) -> list[str]:
    """The kinds of a Markdown page's blocks, and of the marks inside them, in order."""
    kinds = []
    for token in MarkdownIt("commonmark").enable(["table"]).parse(page):
        kinds.append(token.type)
        kinds += [child.type for child in token.children or [] if child.type != "text"]
    return kinds


@pytest.fixture(scope="module")
def plain() -> ReportMaterial:
    """A small run: what is drawn and tested is the same for every text."""
    found = build_material(("base", "tuned"))
    return dataclasses.replace(
        found,
        config=found.config.model_copy(update={"evaluate": found.config.evaluate.model_copy(update={"resamples": 20})}),
    )


@BOUNDED
def test_text_stays_text(examples: int, plain: ReportMaterial) -> None:
    harmless = dressed(plain, "word")
    report: dict[str, Any] = build_report(harmless)
    tags = Tags(render_html(report, harmless, public=False)).found
    kinds = blocks(render_markdown(report, harmless, public=False))

    @settings(max_examples=examples, deadline=None)
    @given(text=texts)
    def run(text: str) -> None:
        hostile = dressed(plain, text)
        found = build_report(hostile)
        page, markdown = (render(found, hostile, public=False) for render in (render_html, render_markdown))
        assert Tags(page).found == tags
        assert blocks(markdown) == kinds
        assert not UNSEEN.search(page) and not UNSEEN.search(markdown)

    run()
