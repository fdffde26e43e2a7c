"""The drawings of a run's report, as inline SVG; the forest plot is a study's too."""

from collections.abc import Sequence
from dataclasses import dataclass

from vademecum.records import Verdict
from vademecum.report.drawing import (
    CHART_HEIGHT,
    Scale,
    curve,
    decimals,
    down,
    nice_ticks,
    running_mean,
    signed,
    svg,
    text,
    x_axis,
    y_axis,
)

SMOOTHING = 0.05
"""Share of the steps that the smooth line is a running mean over."""
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
    """Decides the mark."""
    note: str = ""
    """Stands to the right; the verdict where it is empty."""


def forest_plot(rows: Sequence[Interval], axis: str, *, band: float = 0.0, left: int = 96) -> str:
    """Differences with their intervals around a line at zero; filled mark: better or worse, hollow: not shown.

    `band`: half the width of a band around zero, drawn where it is not 0. `left`: pixels for the labels.
    """
    ends = [-band, band, *(row.low for row in rows), *(row.high for row in rows)]
    ticks = nice_ticks(min(0.0, *ends), max(0.0, *ends), 5)
    scale = Scale(ticks[0], ticks[-1])
    parts: list[str] = []
    y, panel = 4.0, ""
    for row in rows:
        if row.panel != panel:
            panel = row.panel
            y += 10 if parts else 0
            parts.append(text(f'x="0" dx="-{left}" y="{y + 15:g}" class="panel"', panel))
            y += 22
        parts.append(_interval_row(row, scale, y + ROW_HEIGHT / 2))
        parts.append(text(f'x="0" dx="-{left}" y="{y + ROW_HEIGHT / 2 + 4:g}" class="row-label"', row.label))
        y += ROW_HEIGHT
    grid = [
        f'<line x1="{scale.at(tick)}" x2="{scale.at(tick)}" y1="26" y2="{y:g}" '
        f'class="{"zero" if tick == 0 else "grid"}"/>'
        + text(f'x="{scale.at(tick)}" y="{y + 16:g}" text-anchor="middle" class="tick"', signed(tick, decimals(ticks)))
        for tick in ticks
    ]
    label = text(f'x="50%" y="{y + 36:g}" text-anchor="middle" class="axis-label"', axis)
    behind = [_band(band, scale, y)] if band else []
    return svg([*behind, *grid, *parts, label], title=f"Forest plot: {axis}", height=y + 44, margins=(left, 76))


def _band(half: float, scale: Scale, bottom: float) -> str:
    width = 100 * (scale.share(half) - scale.share(-half))
    return f'<rect x="{scale.at(-half)}" y="26" width="{width:.2f}%" height="{bottom - 26:g}" class="band"/>'


def _interval_row(row: Interval, scale: Scale, y: float) -> str:
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
        + text(f'x="100%" dx="10" y="{y + 4:g}" class="verdict"', row.note or row.verdict)
        + "</g>"
    )


def loss_curve(steps: Sequence[int], losses: Sequence[float], validation: Sequence[tuple[int, float]]) -> str:
    """Training loss per step, faint, with its running mean; validation losses (step, loss) as rings."""
    found = [*losses, *(loss for _, loss in validation)]
    ticks = nice_ticks(min(found), max(found), 5)
    along, up = Scale(0, max(1, *steps, *(step for step, _ in validation))), Scale(ticks[0], ticks[-1])
    window = max(1, round(len(losses) * SMOOTHING))
    points = list(zip(steps, losses, strict=True))
    curves = curve(points, along, up, "raw") + curve(running_mean(points, window), along, up, "smooth")
    rings = [f'<circle cx="{along.at(step)}" cy="{down(up, loss):g}" r="4" class="ring"/>' for step, loss in validation]
    legend = '<text x="0" dx="-44" y="-14" class="legend"><tspan class="smooth-key">━</tspan> training'
    if validation:
        legend += '<tspan class="ring-key" dx="16">○</tspan> validation'
    return svg(
        [
            *y_axis(ticks, up),
            *x_axis(nice_ticks(0, along.high, 5), along, "optimizer step"),
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
    up = Scale(0, ticks[-1])
    # Where all rows are much shorter, the cut would squeeze the picture: it is then named at the edge instead.
    inside = max_length <= 1.6 * edges[-1]
    along = Scale(0, max(edges[-1], max_length if inside else 0))
    bars = []
    for left, right, number in zip(edges[:-1], edges[1:], counts, strict=True):
        top = down(up, number)
        width = (right - left) / along.high * 100
        bars.append(
            f'<rect x="{along.at(left)}" y="{top:g}" width="{width * 0.92:.2f}%" height="{CHART_HEIGHT - top:g}" '
            f'class="bar"><title>{left} to {right} tokens: {number}</title></rect>'
        )
    cut = along.at(max_length) if inside else "100%"
    label = f"cut at {max_length:,}" if inside else f"cut at {max_length:,} →"
    line = f'<line x1="{cut}" x2="{cut}" y1="-4" y2="{CHART_HEIGHT}" class="cut"/>' if inside else ""
    return svg(
        [
            *y_axis(ticks, up, whole=True),
            *bars,
            *x_axis([tick for tick in nice_ticks(0, along.high, 5) if tick <= along.high], along, "tokens per row"),
            line,
            text(f'x="{cut}" y="-14" text-anchor="end" class="cut-label"', label),
            text('x="0" dx="-44" y="-14" class="axis-label"', "rows"),
        ],
        title=f"Rows by length in tokens, cut at {max_length}",
        height=CHART_HEIGHT + 44,
        margins=(44, 16),
        above=32,
    )
