"""How long a run will take: rates measured on this machine times the tokens of this corpus."""

from vademecum.records import Record

EVALUATION_COST = 0.5
"""Seconds per token of a forward pass relative to a training step: the frozen base needs two products forward and one
back (no weight gradients), and scoring the loss skips the one back."""

ANSWER_SHARE = {"base": 0.75, "few-shot": 0.75, "tuned": 0.6}
"""Expected length of an answer as a share of max_new_tokens. A guess before the fact; the report shows what came."""

STEP_FLOOR = 0.35
"""Part of a decoding step that does not shrink when rows have ended: 64 rows took 222 ms and 16 rows 113 ms with
SmolLM2-135M on two AVX2 cores."""

SCORING_SECONDS_PER_ANSWER = 0.05
"""ROUGE of one answer, both texts of some hundred words."""

STARTUP_SECONDS = 6.0
"""Imports, reading the weights and merging, per stage that loads the model."""


class AnswerRates(Record):
    """What answering costs with one kind of prompt, measured on one full chunk."""

    prompt_tokens_per_second: float
    step_seconds: float
    """One new token for every row of the chunk."""
    rows: int


class Rates(Record):
    """What was measured by throw-away work before the run."""

    train_tokens_per_second: float
    """Real tokens (pads not counted) through forward, backward and optimizer; 0 when nothing is trained."""
    answers: dict[str, AnswerRates]
    """Kind of prompt (`plain`, `few-shot`) → its rates."""
    peak_memory_bytes: int
    """Of the process while it trained and answered in the largest shapes of this corpus."""


def answering_seconds(system: str, prompt_tokens: int, answers: int, max_new_tokens: int, rates: AnswerRates) -> float:
    """Predicted seconds for one system's answers; `prompt_tokens` is the sum over all prompts.

    A chunk takes as many steps as its longest answer, nearly always `max_new_tokens`, with fewer and fewer rows.
    """
    step = rates.step_seconds * (STEP_FLOOR + (1 - STEP_FLOOR) * ANSWER_SHARE[system])
    return (
        STARTUP_SECONDS
        + prompt_tokens / rates.prompt_tokens_per_second
        + answers / rates.rows * max_new_tokens * step
        + answers * SCORING_SECONDS_PER_ANSWER
    )
