"""Text from elsewhere on its way into a page."""

import re

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and line end, marks that turn the direction of what follows, halves of characters."""


def visible(text: str) -> str:
    """The text with what nobody sees, and what makes other text look different, written out: `⟨U+202E⟩`."""
    return _UNSEEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)
