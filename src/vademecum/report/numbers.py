"""How numbers are written, the same in Markdown, HTML and the card."""

from collections.abc import Mapping
from typing import Any

NONE = "–"
"""Stands where there is nothing to write."""
NOT_KNOWN = "not known: no pair has one"
"""Stands for a share of pairs that have something, where none has it."""


def score(value: float) -> str:
    """Three decimals, the leading zero kept: 0.271."""
    return f"{value:z.3f}".replace("-", "−")


def difference(value: float) -> str:
    """Three decimals with a sign: +0.047, −0.010, 0.000."""
    return f"{value:+z.3f}".replace("-", "−").replace("+0.000", "0.000")


def estimate(found: Mapping[str, Any]) -> str:
    """Mean and interval of a score: 0.271 [0.251, 0.291]."""
    return f"{score(found['mean'])} [{score(found['low'])}, {score(found['high'])}]"


def signed_estimate(found: Mapping[str, Any]) -> str:
    """Mean and interval of a difference: +0.047 [+0.031, +0.063]."""
    return f"{difference(found['mean'])} [{difference(found['low'])}, {difference(found['high'])}]"


def p_value(value: float) -> str:
    """Four decimals without the leading zero, which a probability does not need: .0412, < .0001, 1.0000."""
    if value < 0.0001:
        return "< .0001"
    return f"{value:.4f}".removeprefix("0")


def share(value: float) -> str:
    """A fraction of one in per cent: 12.5 %. Not quite none and not quite all are never rounded to 0 or 100."""
    if 0 < value < 0.001:
        return "< 0.1 %"
    if 0.999 < value < 1:
        return "> 99.9 %"
    return f"{100 * value:.1f} %"


def level(value: float) -> str:
    """The coverage of an interval: 95 %."""
    return f"{100 * value:g} %"


def count(value: int) -> str:
    """Thousands apart: 12,480."""
    return f"{value:,}"


def counted(value: int, thing: str) -> str:
    """A count with its noun: 1 group, 12,480 groups."""
    return f"{value:,} {thing}" if value == 1 else f"{value:,} {thing}s"


def duration(value: float) -> str:
    """Seconds in words: 48 s, 12.5 min, 3.2 h."""
    if value < 90:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.1f} min" if value < 5400 else f"{value / 3600:.1f} h"


def gigabytes(value: float) -> str:
    """Bytes in 1e9: 1.89 GB."""
    return f"{value / 1e9:.2f} GB"


def digest(value: str) -> str:
    """The first 16 hexadecimal digits; report.json has all of them."""
    return value[:16]


def metric(name: str) -> str:
    """rouge1 as the field writes it: ROUGE-1."""
    return f"ROUGE-{name.removeprefix('rouge')}"


def file_name(path: str) -> str:
    """The last part of a path of any system."""
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2]
