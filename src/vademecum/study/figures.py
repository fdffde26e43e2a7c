"""The drawings of a study: losses of all levels on one axis, and what a variant costs against what it is worth."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vademecum.report.drawing import (
    CHART_HEIGHT,
    MOST_POINTS,
    Scale,
    curve,
    down,
    nice_ticks,
    running_mean,
    svg,
    text,
    x_axis,
    y_axis,
)
from vademecum.report.figures import SMOOTHING

STYLES = 5
"""Dash patterns and colours beside the baseline's; further levels begin again with the first."""
TALLEST = 1.6
"""A loss above this many times the highest of the completed trials is drawn at the edge, or it would flatten them."""
LEGEND_ROW = 18
SPOT = 9
"""Radius of a numbered spot, in pixels."""


@dataclass(frozen=True)
class Line:
    """The losses of one trial."""

    level: str
    points: Sequence[tuple[int, float]]
    """Optimizer step and training loss, in order."""
    diverged: bool


def loss_curves(lines: Sequence[Line], title: str, levels: Sequence[str] = ()) -> str:
    """Every trial's training loss, faint, with its running mean; of `levels`, by default those of the lines, the first
    stands out as the baseline, whether it has lines or not.

    A diverged trial ends in a cross. Stretches of a long training are drawn by their highest loss: a spike stays.
    """
    drawn = [line for line in lines if line.points]
    levels = levels or list(dict.fromkeys(line.level for line in drawn))
    losses = [loss for line in drawn for _, loss in line.points]
    whole = [loss for line in drawn if not line.diverged for _, loss in line.points]
    top = min(max(losses), TALLEST * max(whole)) if whole else max(losses)
    ticks = nice_ticks(min(losses), top, 5)
    along, up = Scale(0, max(step for line in drawn for step, _ in line.points)), Scale(ticks[0], ticks[-1])
    parts = [*y_axis(ticks, up), *x_axis(nice_ticks(0, along.high, 5), along, "optimizer step")]
    for line in drawn:
        parts.append(_line(line, _style(levels.index(line.level)), along, up))
    entries = _legend_entries(
        {levels.index(line.level): line.level for line in drawn}, any(line.diverged for line in drawn)
    )
    parts += _legend(entries)
    rows = math.ceil(len(entries) / 2)
    return svg(parts, title=title, height=CHART_HEIGHT + 44, margins=(44, 16), above=16 + LEGEND_ROW * rows)


def _style(place: int) -> str:
    return "line-0" if place == 0 else f"line-{1 + (place - 1) % STYLES}"


def _line(line: Line, style: str, along: Scale, up: Scale) -> str:
    points = [(float(step), min(loss, up.high)) for step, loss in line.points]
    window = max(1, round(len(points) * SMOOTHING))
    faint = curve(_peaks(points), along, up, f"faint {style}")
    smooth = curve(running_mean(points, window), along, up, f"line {style}")
    if not line.diverged:
        return faint + smooth
    step, loss = points[-1]
    cross = '<path d="M-5-5L5 5M-5 5L5-5" class="cross"/>'
    return f'{faint}{smooth}<svg x="{along.at(step)}" y="{down(up, loss):g}" overflow="visible">{cross}</svg>'


def _peaks(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    size = math.ceil(len(points) / MOST_POINTS)
    return [max(points[start : start + size], key=lambda point: point[1]) for start in range(0, len(points), size)]


def _legend_entries(drawn: Mapping[int, str], crossed: bool) -> list[tuple[str, str]]:
    """A sample and a name of every level by its place, and of the cross."""
    entries = [
        (f'<line x1="0" x2="22" y1="0" y2="0" class="line key {_style(place)}"/>', name)
        for place, name in sorted(drawn.items())
    ]
    if crossed:
        entries.append(('<path transform="translate(11 0)" d="M-5-5L5 5M-5 5L5-5" class="cross"/>', "diverged"))
    return entries


def _legend(entries: Sequence[tuple[str, str]]) -> list[str]:
    """Two columns above the chart."""
    rows = math.ceil(len(entries) / 2)
    attributes = 'x="30" y="4" class="legend"'
    return [
        f'<svg x="{50 * (place % 2)}%" y="{-LEGEND_ROW * (rows - place // 2) + 2}" overflow="visible">'
        f"{sample}{text(attributes, name)}</svg>"
        for place, (sample, name) in enumerate(entries)
    ]


@dataclass(frozen=True)
class Spot:
    """What one variant costs and is worth."""

    name: str
    minutes: float
    score: float
    is_baseline: bool


def find_frontier(spots: Sequence[Spot]) -> list[int]:
    """Places of the spots that no other one beats at the same cost or less, from cheap to dear."""
    best: list[int] = []
    for place in sorted(range(len(spots)), key=lambda i: (spots[i].minutes, -spots[i].score)):
        if not best or spots[place].score > spots[best[-1]].score:
            best.append(place)
    return best


def cost_against_quality(spots: Sequence[Spot], spread: float, untrained: float | None, quality: str) -> str:
    """Numbered spots over minutes; the frontier as steps, `spread` up and down as whiskers, the base a line."""
    values = [spot.score + sign * spread for spot in spots for sign in (-1, 1)]
    values += [] if untrained is None else [untrained]
    minutes = [spot.minutes for spot in spots]
    ticks, below = nice_ticks(min(values), max(values), 5), nice_ticks(min(minutes), max(minutes), 5)
    along, up = Scale(below[0], below[-1]), Scale(ticks[0], ticks[-1])
    frontier = find_frontier(spots)
    parts = [*y_axis(ticks, up), *x_axis(below, along, "minutes per trial", whole=False)]
    if untrained is not None:
        y = down(up, untrained)
        parts.append(f'<line x1="0" x2="100%" y1="{y:g}" y2="{y:g}" class="untrained"/>')
    parts.append(curve(_steps([spots[place] for place in frontier]), along, up, "frontier"))
    for place, spot in enumerate(spots):
        kind = "spot" + (" baseline" if spot.is_baseline else "") + (" best" if place in frontier else "")
        parts.append(_spot(spot, place + 1, kind, spread, (along, up)))
    parts.append(text('x="0" dx="-44" y="-14" class="axis-label"', quality))
    title = f"{quality} against minutes per trial"
    return svg(parts, title=title, height=CHART_HEIGHT + 44, margins=(44, 16), above=32)


def _spot(spot: Spot, number: int, kind: str, spread: float, scales: tuple[Scale, Scale]) -> str:
    along, up = scales
    x, y = along.at(spot.minutes), down(up, spot.score)
    low, high = down(up, spot.score - spread), down(up, spot.score + spread)
    return (
        f'<line x1="{x}" x2="{x}" y1="{high:g}" y2="{low:g}" class="whisker"/>'
        f'<g class="{kind}"><circle cx="{x}" cy="{y:g}" r="{SPOT}"/>'
        + text(f'x="{x}" y="{y + 4:g}" text-anchor="middle"', str(number))
        + "</g>"
    )


def _steps(spots: Sequence[Spot]) -> list[tuple[float, float]]:
    """From cheap to dear: what is reached holds until something better is."""
    points: list[tuple[float, float]] = []
    for spot in spots:
        if points:
            points.append((spot.minutes, points[-1][1]))
        points.append((spot.minutes, spot.score))
    return points
