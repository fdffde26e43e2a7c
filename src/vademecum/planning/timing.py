"""How long a run will take: rates measured on this machine times the tokens of this corpus."""

import math
from dataclasses import dataclass

from vademecum.hardware import Device
from vademecum.planning.memory import Quantization
from vademecum.planning.operations import Shape
from vademecum.records import Record

ANSWER_SHARE = {"base": 0.75, "few-shot": 0.75, "tuned": 0.6}
"""Expected length of an answer as a share of max_new_tokens. A guess before the fact; the report shows what came."""

STEP_FLOOR = 0.35
"""Part of a decoding step that does not shrink when rows have ended: 64 rows took 222 ms and 16 rows 113 ms with
SmolLM2-135M on two AVX2 cores."""

SCORING_SECONDS_PER_ANSWER = 0.05
"""ROUGE of one answer, both texts of some hundred words."""

STARTUP_SECONDS = 6.0
"""Imports, reading the weights and merging, per stage that loads the model."""


TRAINING_EFFICIENCY: dict[Device, float] = {"cpu": 0.5, "cuda": 0.35, "mps": 0.3}
"""Useful operations of training as a share of the rate of large matrix products: the CPU's measured by
benchmarks/train_speed.py, the accelerators' estimates."""
ANSWERING_EFFICIENCY: dict[Device, float] = {"cpu": 0.4, "cuda": 0.2, "mps": 0.2}
ANSWERING_COST: dict[Quantization, float] = {"none": 1.0, "int8": 1.5, "nf4": 1.2}
"""Of quantized weights: seconds over those of unquantized ones, with many rows at a time. SmolLM2-135M on two
AVX512-BF16 cores, 64 rows: int8 1.6 and 0.9, nf4 1.0 and 1.4 (bfloat16, float32); one row 1.9 and 1.6, 1.6 and 1.3."""
STEP_SECONDS: dict[Device, float] = {"cpu": 0.0, "cuda": 0.03, "mps": 0.03}
"""A decoding step takes at least this: launching its kernels. Estimates."""


@dataclass(frozen=True)
class ForecastWork:
    """What a forecast goes by."""

    rows: list[tuple[int, int]]
    """Tokens, and trained tokens, of every row; empty when nothing is trained."""
    slowdown: float
    """Padding, recomputation and quantization: the time of a step over that of its useful operations."""
    prompts: dict[str, int]
    """Kind of prompt → mean tokens."""
    answer_rows: int
    answer_quantization: Quantization


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
    evaluation_tokens_per_second: float
    """Real tokens through a validation loss; 0 when nothing is trained."""
    answers: dict[str, AnswerRates]
    """Kind of prompt (`plain`, `few-shot`) → its rates."""
    peak_memory_bytes: int
    """The most that was held while it answered or trained in the largest shapes of this corpus, loading left out."""
    training_peak_bytes: int = 0
    """The most that was held while it trained: what the prediction for training is about."""


def forecast_rates(shape: Shape, work: ForecastWork, flops: float, device: Device) -> Rates:
    """Rates from operation counts alone.

    Args:
        flops: floating-point operations per second of a large matrix product in the number format that is used.
    """
    training = flops * TRAINING_EFFICIENCY[device]
    answering = flops * ANSWERING_EFFICIENCY[device] / ANSWERING_COST[work.answer_quantization]
    rows = [(length, trained) for length, trained in work.rows if length]
    tokens = sum(length for length, _ in rows)
    step = sum(shape.training_flops(length, trained) for length, trained in rows) * work.slowdown
    forward = sum(shape.training_flops(length, trained) / 2 for length, trained in rows)
    return Rates(
        train_tokens_per_second=tokens * training / step if rows else 0.0,
        evaluation_tokens_per_second=tokens * training / forward if rows else 0.0,
        answers={
            kind: AnswerRates(
                prompt_tokens_per_second=length * answering / shape.reading_flops(length),
                step_seconds=max(work.answer_rows * shape.writing_flops() / answering, STEP_SECONDS[device]),
                rows=work.answer_rows,
            )
            for kind, length in work.prompts.items()
        },
        peak_memory_bytes=0,
    )


def answering_seconds(system: str, prompt_tokens: int, answers: int, max_new_tokens: int, rates: AnswerRates) -> float:
    """Predicted seconds for one system's answers; `prompt_tokens` is the sum over all prompts.

    A chunk takes as many steps as its longest answer, nearly always `max_new_tokens`, with fewer and fewer rows; the
    last one has fewer from the beginning, and costs its floor all the same.
    """
    floors, filled = math.ceil(answers / rates.rows), answers / rates.rows
    full_steps = max_new_tokens * (STEP_FLOOR * floors + (1 - STEP_FLOOR) * ANSWER_SHARE[system] * filled)
    return (
        STARTUP_SECONDS
        + prompt_tokens / rates.prompt_tokens_per_second
        + full_steps * rates.step_seconds
        + answers * SCORING_SECONDS_PER_ANSWER
    )
