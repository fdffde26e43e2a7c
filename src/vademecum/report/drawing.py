"""What every drawing is put together from: round ticks, scales, axes, curves, text, and the SVG around them.

Positions along x are per cent and text has its own size, so that a drawing fills the width it is given, on a phone as
on paper. Colour comes from CSS classes and from `currentColor`; shape says the same as colour.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from vademecum.report.plain import visible

MOST_POINTS = 300
"""Points of a curve; longer ones are averaged over stretches, which no screen would show apart."""
CHART_HEIGHT = 220
"""Of the area between the axes, in pixels."""


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
class Scale:
    """Where values from `low` to `high` lie along an axis."""

    low: float
    high: float

    def share(self, value: float) -> float:
        """0 at `low`, 1 at `high`."""
        return (value - self.low) / (self.high - self.low)

    def at(self, value: float) -> str:
        """The same in per cent, as SVG wants it."""
        return f"{100 * self.share(value):.2f}%"


def down(up: Scale, value: float) -> float:
    """Pixels from the top of the chart."""
    return round(CHART_HEIGHT * (1 - up.share(value)), 2)


def running_mean(points: Sequence[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    """Each y replaced by the mean of the last `window`, or of as many as there are yet."""
    found, total = [], 0.0
    for index, (x, y) in enumerate(points):
        total += y - (points[index - window][1] if index >= window else 0.0)
        found.append((x, total / min(index + 1, window)))
    return found


def curve(points: Sequence[tuple[float, float]], along: Scale, up: Scale, kind: str) -> str:
    """A line through the points, of the CSS class `kind`."""
    size = math.ceil(len(points) / MOST_POINTS)
    stretches = [points[start : start + size] for start in range(0, len(points), size)]
    means = [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in stretches]
    path = " ".join(f"{100 * along.share(x):.2f},{100 * (1 - up.share(y)):.2f}" for x, y in means)
    return (
        f'<svg width="100%" height="{CHART_HEIGHT}" viewBox="0 0 100 100" preserveAspectRatio="none" '
        f'overflow="visible"><polyline points="{path}" class="{kind}" fill="none" '
        'vector-effect="non-scaling-stroke"/></svg>'
    )


def y_axis(ticks: Sequence[float], up: Scale, *, whole: bool = False) -> list[str]:
    """A line across the chart and a number to the left of it for every tick."""
    return [
        f'<line x1="0" x2="100%" y1="{down(up, tick):g}" y2="{down(up, tick):g}" class="grid"/>'
        + text(
            f'x="0" dx="-8" y="{down(up, tick) + 4:g}" text-anchor="end" class="tick"',
            f"{tick:,.{0 if whole else decimals(ticks)}f}",
        )
        for tick in ticks
    ]


def x_axis(ticks: Sequence[float], along: Scale, name: str, *, whole: bool = True) -> list[str]:
    """The line at the bottom, the numbers under it and what they count; of things one counts whole numbers alone."""
    places = 0 if whole else decimals(ticks)
    marks = [
        text(f'x="{along.at(tick)}" y="{CHART_HEIGHT + 18}" text-anchor="middle" class="tick"', f"{tick:,.{places}f}")
        for tick in ticks
        if tick <= along.high and (not whole or tick == int(tick))
    ]
    base = f'<line x1="0" x2="100%" y1="{CHART_HEIGHT}" y2="{CHART_HEIGHT}" class="zero"/>'
    return [base, *marks, text(f'x="50%" y="{CHART_HEIGHT + 38}" text-anchor="middle" class="axis-label"', name)]


def text(attributes: str, content: str) -> str:
    """Escaped text; the attributes are ours."""
    return f"<text {attributes}>{escape(visible(content))}</text>"


def decimals(ticks: Sequence[float]) -> int:
    """As many as the longest of the ticks needs."""
    return max(len(f"{tick:g}".partition(".")[2]) for tick in ticks)


def signed(tick: float, places: int) -> str:
    """With its sign, except for zero."""
    return "0" if tick == 0 else f"{tick:+.{places}f}".replace("-", "−")


def svg(parts: Sequence[str], *, title: str, height: float, margins: tuple[int, int], above: int = 0) -> str:
    """The plot area is the whole SVG; labels lie outside it, in margins of fixed width."""
    left, right = margins
    style = f"display:block;overflow:visible;margin:{above}px {right}px 0 {left}px;width:calc(100% - {left + right}px)"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" height="{height:g}" style="{style}">'
        f"<title>{escape(visible(title))}</title>{''.join(parts)}</svg>"
    )
