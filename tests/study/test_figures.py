"""A study's drawings: every curve and spot where it belongs, told apart by shape as well as by colour."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vademecum.report.drawing import CHART_HEIGHT
from vademecum.report.figures import Interval, forest_plot
from vademecum.study.figures import Line, Spot, cost_against_quality, find_frontier, loss_curves

SVG = "{http://www.w3.org/2000/svg}"
FALLING = [(step, 3.0 - step / 100) for step in range(1, 101)]
LINES = [
    Line("1e-3 (baseline)", FALLING, diverged=False),
    Line("5e-5", [(step, 3.0) for step in range(1, 101)], diverged=False),
    Line("5e-3", [*FALLING[:30], (31, 400.0)], diverged=True),
]
SPOTS = [Spot("baseline", 10.0, 0.30, True), Spot("<a&b>", 5.0, 0.20, False), Spot("dear", 20.0, 0.25, False)]


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def classes(svg: str, tag: str) -> list[str]:
    return [node.get("class", "") for node in parse(svg).iter(f"{SVG}{tag}")]


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()) for node in parse(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("svg", [loss_curves(LINES, "loss"), cost_against_quality(SPOTS, 0.01, 0.15, "ROUGE-L")])
def test_a_drawing_is_well_formed_named_and_without_colours_of_its_own(svg: str) -> None:
    root = parse(svg)
    assert root.get("role") == "img" and root.findtext(f"{SVG}title")
    assert not re.search(r"#[0-9a-f]{3,6}|rgb\(|href|url\(|nan|inf", svg)


def test_every_level_has_a_line_of_its_own_and_the_baseline_stands_out() -> None:
    svg = loss_curves(LINES, "loss")
    assert classes(svg, "polyline") == [
        f"{kind} line-{place}" for place in range(3) for kind in ("faint", "line")
    ]  # fmt: skip
    assert {"1e-3 (baseline)", "5e-5", "5e-3", "diverged"} <= set(texts(svg))
    assert "diverged" not in texts(loss_curves(LINES[:2], "loss"))


def test_a_diverged_line_ends_in_a_cross_where_it_broke_off_and_flattens_no_other() -> None:
    root = parse(loss_curves(LINES, "loss"))
    (place,) = [node for node in root.findall(f"{SVG}svg") if node.find(f"{SVG}path") is not None
                and str(node.get("x")).endswith("%") and not node.findall(f"{SVG}text")]  # fmt: skip
    assert (place.get("x"), place.get("y")) == ("31.00%", "0")
    heights = [float(point.partition(",")[2]) for point in
               next(node for node in root.iter(f"{SVG}polyline")).get("points", "").split()]  # fmt: skip
    assert max(heights) - min(heights) > 15  # per cent of the chart


def test_seeds_of_one_level_share_a_style_and_a_name() -> None:
    svg = loss_curves([LINES[0], LINES[0], LINES[1]], "loss")
    assert classes(svg, "polyline").count("line line-0") == 2
    assert texts(svg).count("1e-3 (baseline)") == 1


def test_a_spike_in_a_long_training_is_not_averaged_away() -> None:
    losses = [(step, 5.0 if step == 7_777 else 1.0) for step in range(1, 20_001)]
    svg = loss_curves([Line("baseline", losses, diverged=False)], "loss")
    faint = next(node for node in parse(svg).iter(f"{SVG}polyline") if "faint" in node.get("class", ""))
    heights = [float(point.partition(",")[2]) for point in faint.get("points", "").split()]
    assert min(heights) == 0.0 and heights.count(0.0) == 1
    assert len(heights) <= 300


@pytest.mark.parametrize("points", [[(1, 2.0)], [(1, 0.0), (2, 0.0)]])
@pytest.mark.parametrize("diverged", [True, False])
def test_a_flat_or_short_training_is_drawn_too(points: list[tuple[int, float]], diverged: bool) -> None:
    svg = loss_curves([Line("a", points, diverged), Line("b", [], diverged=False)], "loss")
    assert "nan" not in svg and texts(svg).count("b") == 0


def test_spots_stand_at_their_values_and_the_frontier_goes_through_the_best() -> None:
    svg = cost_against_quality(SPOTS, 0.01, None, "ROUGE-L")
    groups = [node.get("class") for node in parse(svg).iter(f"{SVG}g")]
    assert groups == ["spot baseline best", "spot best", "spot"]
    circles = list(parse(svg).iter(f"{SVG}circle"))
    assert float(str(circles[1].get("cy"))) > float(str(circles[2].get("cy"))) > float(str(circles[0].get("cy")))
    assert {"1", "2", "3"} <= set(texts(svg))
    assert all(0 <= float(str(circle.get("cy"))) <= CHART_HEIGHT for circle in circles)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_the_frontier_is_what_nothing_beats(values: list[tuple[int, int]]) -> None:
    spots = [Spot(str(i), cost, score, False) for i, (cost, score) in enumerate(values)]
    frontier = find_frontier(spots)
    chosen = {(spots[place].minutes, spots[place].score) for place in frontier}
    for spot in spots:
        beaten = any(
            other.minutes <= spot.minutes
            and other.score >= spot.score
            and (other.minutes, other.score) != (spot.minutes, spot.score)
            for other in spots
        )
        assert beaten is ((spot.minutes, spot.score) not in chosen)


def test_the_noise_floor_is_a_band_around_zero() -> None:
    rows = [Interval("optimizer", "adafactor", -0.03, -0.04, -0.02, "worse", note="−0.030")]
    plain, banded = forest_plot(rows, "x"), forest_plot(rows, "x", band=0.01, left=150)
    (band,) = [node for node in parse(banded).iter(f"{SVG}rect") if node.get("class") == "band"]
    zero = next(node for node in parse(banded).iter(f"{SVG}line") if node.get("class") == "zero")
    start, width = (float(str(band.get(key)).rstrip("%")) for key in ("x", "width"))
    assert start + width / 2 == pytest.approx(float(str(zero.get("x1")).rstrip("%")), abs=0.02)
    assert "band" not in plain
    assert "−0.030" in texts(banded) and "worse" not in texts(banded)
