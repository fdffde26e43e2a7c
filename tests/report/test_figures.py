"""Drawings: the right places, readable by any XML parser, no colour of their own."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vademecum.report.drawing import CHART_HEIGHT, nice_ticks
from vademecum.report.figures import Interval, forest_plot, length_histogram, loss_curve

SVG = "{http://www.w3.org/2000/svg}"
ROWS = [
    Interval("tuned − base", "ROUGE-1", 0.05, 0.02, 0.08, "better"),
    Interval("tuned − base", "ROUGE-2", 0.01, -0.02, 0.04, "not shown"),
    Interval("tuned − copy", "ROUGE-1", -0.10, -0.15, -0.05, "worse"),
]


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()) for node in parse(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize(
    "svg",
    [
        forest_plot(ROWS, "system minus baseline"),
        loss_curve([1, 2, 3], [2.0, 1.5, 1.2], [(3, 1.4)]),
        length_histogram([0, 10, 20], [3, 1], 20),
    ],
)
def test_a_drawing_is_well_formed_named_and_without_colours_of_its_own(svg: str) -> None:
    root = parse(svg)
    assert root.get("role") == "img"
    assert root.findtext(f"{SVG}title")
    assert not re.search(r"#[0-9a-f]{3,6}|rgb\(|href|url\(", svg)


def test_forest_plot_puts_marks_at_their_values_and_shows_verdicts_by_shape_and_word() -> None:
    svg = forest_plot(ROWS, "system minus baseline")
    root = parse(svg)
    groups = {node.get("class"): node for node in root.iter(f"{SVG}g")}
    ticks = nice_ticks(-0.15, 0.08, 5)
    span = ticks[-1] - ticks[0]
    circle = groups["better"].find(f"{SVG}circle")
    assert circle is not None
    assert float(str(circle.get("cx")).rstrip("%")) == pytest.approx(100 * (0.05 - ticks[0]) / span, abs=0.01)
    assert groups["worse"].find(f"{SVG}svg/{SVG}path") is not None
    hollow = groups["not-shown"].find(f"{SVG}circle")
    assert hollow is not None and hollow.get("class") == "hollow"
    assert {"better", "worse", "not shown", "system minus baseline", "0"} <= set(texts(svg))
    assert texts(svg).count("tuned − base") == 1


def test_labels_are_escaped() -> None:
    svg = forest_plot([Interval("<script>", "a & b", 0.1, 0.0, 0.2, "better")], "x < y")
    assert "<script>" not in svg
    assert {"<script>", "a & b", "x < y"} <= set(texts(svg))


def test_loss_curve_shows_every_validation_point_and_names_its_axes() -> None:
    svg = loss_curve(list(range(1, 101)), [3 - step / 50 for step in range(100)], [(50, 2.2), (100, 1.3)])
    rings = [node for node in parse(svg).iter(f"{SVG}circle") if node.get("class") == "ring"]
    assert [ring.get("cx") for ring in rings] == ["50.00%", "100.00%"]
    assert "optimizer step" in texts(svg)
    assert any("validation" in text for text in texts(svg))


def test_a_long_training_makes_a_small_drawing() -> None:
    steps = list(range(1, 50_001))
    svg = loss_curve(steps, [1.0 + 1 / step for step in steps], [])
    assert len(svg) < 30_000
    assert not any("validation" in text for text in texts(svg))


@pytest.mark.parametrize("losses", [[1.5], [0.0], [2.0, 2.0]])
def test_a_flat_or_short_training_is_drawn_too(losses: list[float]) -> None:
    assert "NaN" not in loss_curve(list(range(1, len(losses) + 1)), losses, [])


def test_bars_are_as_high_as_their_counts() -> None:
    bars = list(parse(length_histogram([0, 50, 100], [40, 10], 100)).iter(f"{SVG}rect"))
    heights = [float(str(bar.get("height"))) for bar in bars]
    assert heights == [pytest.approx(CHART_HEIGHT), pytest.approx(CHART_HEIGHT / 4)]


def test_the_cut_stands_at_max_length_or_is_named_at_the_edge() -> None:
    near = parse(length_histogram([0, 50, 100], [4, 1], 125))
    line = next(node for node in near.iter(f"{SVG}line") if node.get("class") == "cut")
    assert line.get("x1") == "100.00%"
    far = length_histogram([0, 50, 100], [4, 1], 2048)
    assert 'class="cut"' not in far
    assert "cut at 2,048 →" in texts(far)


@given(st.floats(-10, 10), st.floats(0.0001, 1000), st.integers(2, 8))
def test_ticks_are_even_and_enclose_their_range(low: float, span: float, about: int) -> None:
    ticks = nice_ticks(low, low + span, about)
    steps = [right - left for left, right in pairwise(ticks)]
    assert ticks[0] <= low + 1e-6 * span and ticks[-1] >= low + span - 1e-6 * span
    assert max(steps) - min(steps) <= 1e-6 * max(steps)
    assert 2 <= len(ticks) <= 2 * about + 3
