"""How long a run will take: rates measured on this machine times the tokens of this corpus."""

from vademecum.records import Record

EVALUATION_COST = 0.5
"""Seconds per token of a forward pass relative to a training step: the frozen base needs two products forward and one
back (no weight gradients), and scoring the loss skips the one back."""

ANSWER_SHARE = {"base": 0.75, "few-shot": 0.75, "tuned": 0.6}
"""Expected length of an answer as a share of max_new_tokens. A guess before the fact; the report shows what came."""

SCORING_SECONDS_PER_ANSWER = 0.02
"""ROUGE of one answer, both texts of some hundred words."""

STARTUP_SECONDS = 8.0
"""Imports, reading the weights and merging, per stage that loads the model."""


class Rates(Record):
    """What was measured by throw-away work before the run."""

    train_tokens_per_second: float
    """Real tokens (pads not counted) through forward, backward and optimizer."""
    answer_tokens_per_second: float
    """New tokens over all rows of a full batch."""
    prompt_tokens_per_second: float
    """Prompt tokens, before the first new one."""
    peak_memory_bytes: int
    """Of the process while it trained and answered in the largest shapes of this corpus."""


def answering_seconds(system: str, prompt_tokens: int, answers: int, max_new_tokens: int, rates: Rates) -> float:
    """Predicted seconds for one system's answers; `prompt_tokens` is the sum over all prompts."""
    new_tokens = answers * max_new_tokens * ANSWER_SHARE[system]
    return (
        STARTUP_SECONDS
        + prompt_tokens / rates.prompt_tokens_per_second
        + new_tokens / rates.answer_tokens_per_second
        + answers * SCORING_SECONDS_PER_ANSWER
    )
