"""What a report says, before it is Markdown or HTML: sections of blocks. Both renderers show the same ones."""

from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True)
class Prose:
    """A paragraph."""

    kind: ClassVar[str] = "prose"
    text: str


@dataclass(frozen=True)
class Points:
    """A list."""

    kind: ClassVar[str] = "points"
    items: tuple[str, ...]


@dataclass(frozen=True)
class Command:
    """Something to type, or a line to quote letter by letter."""

    kind: ClassVar[str] = "command"
    text: str


@dataclass(frozen=True)
class Table:
    """A table; `text_columns` of its columns, from the left, are words, the rest are numbers."""

    kind: ClassVar[str] = "table"
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1
    caption: str = ""
    has_parts: bool = False
    """Rows that begin with `· ` are parts of the row above them."""


@dataclass(frozen=True)
class Figure:
    """A drawing; only HTML has room for it."""

    kind: ClassVar[str] = "figure"
    svg: str
    caption: str


@dataclass(frozen=True)
class Statement:
    """The verdict on one comparison."""

    verdict: str
    """The words on the badge."""
    versus: str
    """`tuned against base`, or a study's claim in its own words."""
    text: str
    confirmatory: bool


@dataclass(frozen=True)
class Statements:
    """The verdicts that a report opens with."""

    kind: ClassVar[str] = "statements"
    rows: tuple[Statement, ...]


@dataclass(frozen=True)
class Answer:
    """What one system answered."""

    system: str
    score: str
    text: str
    remark: str = ""


@dataclass(frozen=True)
class Case:
    """One question with its reference and every system's answer. Text of the corpus: never in a public report."""

    why: str
    question: str
    reference: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Cases:
    """Answers side by side."""

    kind: ClassVar[str] = "cases"
    rows: tuple[Case, ...]


Block = Prose | Points | Command | Table | Figure | Statements | Cases


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: tuple[Block, ...]

    @property
    def anchor(self) -> str:
        """The heading as a link target."""
        return "-".join(self.title.lower().replace(",", "").split())


@dataclass(frozen=True)
class Page:
    """A whole report, of a run or of a study."""

    name: str
    kind: Literal["report", "study"]
    deck: str
    """What was done, in one sentence under the title."""
    sections: tuple[Section, ...]
    version: str
    """Of Vademecum."""
