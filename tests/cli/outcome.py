"""How a command ended, and the mark that the corpus of these tests carries."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MARK = "zyxwmarker"
"""Stands in every question, answer and focus of the corpus, and nowhere else."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as one JSON value; anything else beside it is an error."""
        return json.loads(self.out)

    @property
    def words(self) -> str:
        """Standard output without line breaks, frames and runs of spaces, which go by the terminal's width."""
        return " ".join(re.sub(r"[│┃─━┏┓┗┛┡┩┌┐└┘├┤┼╇]", " ", self.out).split())


Vade = Callable[..., Outcome]
