"""The rows that stages hand to each other, one JSON object per line on disk.

A row of `pairs.jsonl`:

    {"id": "9_CDC_QA/0000004#1", "question": "What is (are) …?", "answer": "…", "focus": "…",
     "qtype": "information", "source": "CDC", "url": "https://…", "document": "9_CDC_QA/0000004",
     "cuis": [], "semantic_group": ""}
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Split = Literal["train", "validation", "test", "excluded"]
Stopped = Literal["end_token", "length", "loop", "copied"]
Verdict = Literal["better", "worse", "not shown"]


class Record(BaseModel):
    """An immutable row; unknown fields are refused, so that a foreign file is noticed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class QAPair(Record):
    """One question with its answer, as the corpus gives it."""

    id: str
    """Unique and stable across machines and across the order of the input."""
    question: str
    answer: str
    focus: str = ""
    """What the pair is about, such as a disease; empty where the corpus does not say."""
    qtype: str = ""
    """The question type, such as `symptoms`; empty where the corpus does not say."""
    source: str = ""
    """Who published the answer, such as `NIDDK`."""
    url: str = ""
    document: str = ""
    """The document that the pair was taken from; empty where there is none."""
    cuis: tuple[str, ...] = ()
    """UMLS concept identifiers of the focus."""
    semantic_group: str = ""


class Assignment(Record):
    """Which split and which group a pair belongs to."""

    id: str
    split: Split
    group: str


class Prediction(Record):
    """What a system answered."""

    id: str
    text: str
    stopped: Stopped
    """Why the text ends: an end token, max_new_tokens, a loop cut short, or it is a copy."""
    prompt_tokens: int
    new_tokens: int
    shown: tuple[str, ...] = ()
    """Ids of the train pairs that the answer was copied from or that stood in the prompt."""


class Score(Record):
    """The scores of one prediction against its reference; every score lies in [0, 1]."""

    id: str
    group: str
    metrics: dict[str, float]
    """Metric name to score."""
    prediction_words: int
    reference_words: int
    stopped: Stopped
    looping: bool
    """The text repeats a phrase to its end, or was stopped because it did."""


class Estimate(Record):
    """A mean with its confidence interval, both from the same vector of scores."""

    mean: float
    low: float
    high: float
    level: float
    """Nominal coverage of [low, high], such as 0.95."""
    n: int
    groups: int


class Comparison(Record):
    """A system against a baseline, on the pairs that both answered."""

    baseline: str
    system: str
    metric: str
    difference: Estimate
    """Mean of system minus baseline, paired by id."""
    p: float
    """Two-sided, by approximate randomisation over groups."""
    p_holm: float
    """`p` adjusted by Holm's method within its family: the confirmatory comparisons, or all others."""
    smallest_detectable: float
    """2.8 clustered standard errors: what 80 % power would detect at the 5 % level."""
    verdict: Verdict
    reason: str
    """One plain sentence: the numbers behind the verdict, or why none is given."""
