"""Drawings as inline SVG.

Positions along x are per cent and text has its own size, so that a drawing fills the width it is given, on a phone as
on paper. Colour comes from CSS classes and from `currentColor`; shape says the same as colour.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from vademecum.records import Verdict

MOST_POINTS = 300
"""Points of a curve; longer ones are averaged over stretches, which no screen would show apart."""
SMOOTHING = 0.05
"""Share of the steps that the smooth line is a running mean over."""
CHART_HEIGHT = 220
ROW_HEIGHT = 24


@dataclass(frozen=True)
class Interval:
    """One row of a forest plot."""

    panel: str
    """Rows of one panel stand together under this heading."""
    label: str
    mean: float
    low: float
    high: float
    verdict: Verdict


def forest_plot(rows: Sequence[Interval], axis: str) -> str:
    """Differences with their intervals around a line at zero; filled mark: better or worse, hollow: not shown."""
    ticks = nice_ticks(min(0.0, *(row.low for row in rows)), max(0.0, *(row.high for row in rows)), 5)
    scale = _Scale(ticks[0], ticks[-1])
    parts: list[str] = []
    y, panel = 4.0, ""
    for row in rows:
        if row.panel != panel:
            panel = row.panel
            y += 10 if parts else 0
            parts.append(_text(f'x="0" dx="-96" y="{y + 15:g}" class="panel"', panel))
            y += 22
        parts.append(_interval_row(row, scale, y + ROW_HEIGHT / 2))
        y += ROW_HEIGHT
    grid = [
        f'<line x1="{scale.at(tick)}" x2="{scale.at(tick)}" y1="26" y2="{y:g}" '
        f'class="{"zero" if tick == 0 else "grid"}"/>'
        + _text(
            f'x="{scale.at(tick)}" y="{y + 16:g}" text-anchor="middle" class="tick"', _signed(tick, _decimals(ticks))
        )
        for tick in ticks
    ]
    label = _text(f'x="50%" y="{y + 36:g}" text-anchor="middle" class="axis-label"', axis)
    return _svg([*grid, *parts, label], title=f"Forest plot: {axis}", height=y + 44, margins=(96, 76))


def _interval_row(row: Interval, scale: "_Scale", y: float) -> str:
    kind = row.verdict.replace(" ", "-")
    x = scale.at(row.mean)
    mark = {
        "better": f'<circle cx="{x}" cy="{y:g}" r="4.5" fill="currentColor"/>',
        "worse": f'<svg x="{x}" y="{y:g}" overflow="visible"><path d="M-5-4H5L0 5Z" fill="currentColor"/></svg>',
        "not shown": f'<circle cx="{x}" cy="{y:g}" r="4" class="hollow"/>',
    }[row.verdict]
    return (
        f'<g class="{kind}">'
        f'<line x1="{scale.at(row.low)}" x2="{scale.at(row.high)}" y1="{y:g}" y2="{y:g}" class="interval"/>{mark}'
        + _text(f'x="100%" dx="10" y="{y + 4:g}" class="verdict"', row.verdict)
        + "</g>"
        + _text(f'x="0" dx="-96" y="{y + 4:g}" class="row-label"', row.label)
    )


def loss_curve(steps: Sequence[int], losses: Sequence[float], validation: Sequence[tuple[int, float]]) -> str:
    """Training loss per step, faint, with its running mean; validation losses (step, loss) as rings."""
    found = [*losses, *(loss for _, loss in validation)]
    ticks = nice_ticks(min(found), max(found), 5)
    along, up = _Scale(0, max(1, *steps, *(step for step, _ in validation))), _Scale(ticks[0], ticks[-1])
    window = max(1, round(len(losses) * SMOOTHING))
    points = list(zip(steps, losses, strict=True))
    curves = _curve(points, along, up, "raw") + _curve(_running_mean(points, window), along, up, "smooth")
    rings = [
        f'<circle cx="{along.at(step)}" cy="{_down(up, loss):g}" r="4" class="ring"/>' for step, loss in validation
    ]
    legend = '<text x="0" dx="-44" y="-14" class="legend"><tspan class="smooth-key">━</tspan> training'
    if validation:
        legend += '<tspan class="ring-key" dx="16">○</tspan> validation'
    return _svg(
        [
            *_y_axis(ticks, up),
            *_x_axis(nice_ticks(0, along.high, 5), along, "optimizer step"),
            curves,
            *rings,
            f"{legend}</text>",
        ],
        title="Loss per trained token over the optimizer steps",
        height=CHART_HEIGHT + 44,
        margins=(44, 16),
        above=32,
    )


def length_histogram(edges: Sequence[int], counts: Sequence[int], max_length: int) -> str:
    """Rows by length in tokens, `counts[i]` of them from `edges[i]` up to `edges[i + 1]`, and the cut at max_length."""
    ticks = [tick for tick in nice_ticks(0, max(1, *counts), 4) if tick == int(tick)]
    up = _Scale(0, ticks[-1])
    # Where all rows are much shorter, the cut would squeeze the picture: it is then named at the edge instead.
    inside = max_length <= 1.6 * edges[-1]
    along = _Scale(0, max(edges[-1], max_length if inside else 0))
    bars = []
    for left, right, number in zip(edges[:-1], edges[1:], counts, strict=True):
        top = _down(up, number)
        width = (right - left) / along.high * 100
        bars.append(
            f'<rect x="{along.at(left)}" y="{top:g}" width="{width * 0.92:.2f}%" height="{CHART_HEIGHT - top:g}" '
            f'class="bar"><title>{left} to {right} tokens: {number}</title></rect>'
        )
    cut = along.at(max_length) if inside else "100%"
    label = f"cut at {max_length:,}" if inside else f"cut at {max_length:,} →"
    line = f'<line x1="{cut}" x2="{cut}" y1="-4" y2="{CHART_HEIGHT}" class="cut"/>' if inside else ""
    return _svg(
        [
            *_y_axis(ticks, up, whole=True),
            *bars,
            *_x_axis([tick for tick in nice_ticks(0, along.high, 5) if tick <= along.high], along, "tokens per row"),
            line,
            _text(f'x="{cut}" y="-14" text-anchor="end" class="cut-label"', label),
            _text('x="0" dx="-44" y="-14" class="axis-label"', "rows"),
        ],
        title=f"Rows by length in tokens, cut at {max_length}",
        height=CHART_HEIGHT + 44,
        margins=(44, 16),
        above=32,
    )


def nice_ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers at even distances, the first not above `low` and the last not below `high`."""
    span = high - low or abs(high) or 1.0
    raw = span / about
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, 1 - math.floor(math.log10(step)))
    return [round(number * step, digits) for number in range(first, max(last, first + 1) + 1)]


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float

    def share(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)

    def at(self, value: float) -> str:
        return f"{100 * self.share(value):.2f}%"


def _down(up: _Scale, value: float) -> float:
    return round(CHART_HEIGHT * (1 - up.share(value)), 2)


def _running_mean(points: Sequence[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    found, total = [], 0.0
    for index, (x, y) in enumerate(points):
        total += y - (points[index - window][1] if index >= window else 0.0)
        found.append((x, total / min(index + 1, window)))
    return found


def _curve(points: Sequence[tuple[float, float]], along: _Scale, up: _Scale, kind: str) -> str:
    size = math.ceil(len(points) / MOST_POINTS)
    stretches = [points[start : start + size] for start in range(0, len(points), size)]
    means = [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in stretches]
    path = " ".join(f"{100 * along.share(x):.2f},{100 * (1 - up.share(y)):.2f}" for x, y in means)
    return (
        f'<svg width="100%" height="{CHART_HEIGHT}" viewBox="0 0 100 100" preserveAspectRatio="none" '
        f'overflow="visible"><polyline points="{path}" class="{kind}" fill="none" '
        'vector-effect="non-scaling-stroke"/></svg>'
    )


def _y_axis(ticks: Sequence[float], up: _Scale, *, whole: bool = False) -> list[str]:
    return [
        f'<line x1="0" x2="100%" y1="{_down(up, tick):g}" y2="{_down(up, tick):g}" class="grid"/>'
        + _text(
            f'x="0" dx="-8" y="{_down(up, tick) + 4:g}" text-anchor="end" class="tick"',
            f"{tick:,.{0 if whole else _decimals(ticks)}f}",
        )
        for tick in ticks
    ]


def _x_axis(ticks: Sequence[float], along: _Scale, name: str) -> list[str]:
    marks = [
        _text(f'x="{along.at(tick)}" y="{CHART_HEIGHT + 18}" text-anchor="middle" class="tick"', f"{tick:,.0f}")
        for tick in ticks
        if tick <= along.high and tick == int(tick)
    ]
    base = f'<line x1="0" x2="100%" y1="{CHART_HEIGHT}" y2="{CHART_HEIGHT}" class="zero"/>'
    return [base, *marks, _text(f'x="50%" y="{CHART_HEIGHT + 38}" text-anchor="middle" class="axis-label"', name)]


def _text(attributes: str, content: str) -> str:
    return f"<text {attributes}>{escape(content)}</text>"


def _decimals(ticks: Sequence[float]) -> int:
    return max(len(f"{tick:g}".partition(".")[2]) for tick in ticks)


def _signed(tick: float, decimals: int) -> str:
    return "0" if tick == 0 else f"{tick:+.{decimals}f}".replace("-", "−")


def _svg(parts: Sequence[str], *, title: str, height: float, margins: tuple[int, int], above: int = 0) -> str:
    """The plot area is the whole SVG; labels lie outside it, in margins of fixed width."""
    left, right = margins
    style = f"display:block;overflow:visible;margin:{above}px {right}px 0 {left}px;width:calc(100% - {left + right}px)"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" height="{height:g}" style="{style}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
