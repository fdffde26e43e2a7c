"""Of what fits, the fastest is chosen; what the user has set stays; where nothing fits, the error says so."""

import json
from math import prod
from pathlib import Path
from typing import Any

import pytest

from vademecum.config import ModelConfig, TrainConfig
from vademecum.errors import ConfigError
from vademecum.planning import (
    Candidate,
    MemoryLimit,
    Settings,
    choice,
    choose_settings,
    possible_settings,
    settings_cost,
    weigh,
)

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "plan_accuracy-cpu-2core-avx2.json"


def settings(can_be_compact: bool = True, quantization: str = "none", **train: Any) -> list[Settings]:
    model = ModelConfig.model_validate({"quantization": quantization})
    return possible_settings(TrainConfig(**train), model, can_be_compact=can_be_compact)


def needed(one: Settings) -> int:
    """A gigabyte, and one more for every example in the micro-batch; checkpointing and compact memory halve those."""
    size: float = one.per_device_train_batch_size
    size *= 0.5 if one.gradient_checkpointing else 1
    size *= 0.5 if one.compact else 1
    return round(1e9 * (1 + size) * (0.5 if one.quantization == "nf4" else 1))


def candidates(limit_gb: float, **train: Any) -> list[Candidate]:
    return weigh(settings(**train), 100, "cpu", needed, round(limit_gb * 1e9))


def test_examples_per_step_stay_the_same_whatever_is_chosen() -> None:
    for one in settings(examples_per_step=12, quantization="auto"):
        assert prod((one.per_device_train_batch_size, one.gradient_accumulation_steps)) == 12


def test_what_is_set_is_the_only_candidate() -> None:
    given: dict[str, Any] = {
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 5,
        "gradient_checkpointing": True,
    }
    (only,) = settings(**given)
    assert only.model_dump(include=set(given)) == given
    assert {one.per_device_train_batch_size for one in settings(per_device_train_batch_size=4)} == {4}
    assert {one.gradient_checkpointing for one in settings(gradient_checkpointing=False)} == {False}
    assert {one.quantization for one in settings(quantization="nf4")} == {"nf4"}


def test_four_bits_are_no_choice_where_nothing_computes_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {one.quantization for one in settings(quantization="auto")} == {"none", "nf4"}
    monkeypatch.setattr(choice, "can_quantize", lambda: False)
    assert {one.quantization for one in settings(quantization="auto")} == {"none"}


def test_memory_is_compact_where_something_is_made_again_and_nowhere_without_the_c_library_for_it() -> None:
    assert all(one.compact for one in settings() if one.gradient_checkpointing)
    assert all(one.compact for one in settings(quantization="nf4"))
    assert not any(one.compact for one in settings(can_be_compact=False))


def test_less_memory_costs_more_and_more_time() -> None:
    chosen = []
    for limit_gb in (20, 8, 4, 2, 1.4):
        found = candidates(limit_gb, examples_per_step=16)
        best = choose_settings(found, MemoryLimit(round(limit_gb * 1e9), ""), lambda: "")
        assert best.fits
        assert best.relative_seconds == min(one.relative_seconds for one in found if one.fits)
        chosen.append(best)
    assert not chosen[0].gives_up
    times = [one.relative_seconds for one in chosen]
    assert times == sorted(times)
    assert chosen[-1].gives_up


def test_micro_batches_are_no_larger_than_is_fast() -> None:
    assert max(one.per_device_train_batch_size for one in candidates(100, examples_per_step=64)) == 8  # 1,024 slots
    (only,) = candidates(100, per_device_train_batch_size=64, gradient_checkpointing=False, can_be_compact=False)
    assert only.per_device_train_batch_size == 64


def test_where_nothing_fits_the_error_says_what_takes_least_and_what_would_fit() -> None:
    with pytest.raises(ConfigError, match=r"does not fit into 1\.00 GB \(the budget\).* 1\.25 GB") as caught:
        choose_settings(candidates(1), MemoryLimit(10**9, "the budget"), lambda: "take a smaller base model")
    assert caught.value.hint == "take a smaller base model"


def seconds_per_token(case: str) -> float:
    """Measured, of a case with two micro-batches per step but for TinyLlama's one."""
    found = json.loads(RESULTS.read_text(encoding="utf-8"))["settings"]["all"]
    (row,) = [row for row in found["cases"] if row["case"] == case]
    model, shape = case.split()[:2]
    per_step = prod(map(int, shape.split("x"))) * (1 if model == "tinyllama" else 2)
    return float(row["measured_seconds"] / found["timed_steps"] / per_step)


@pytest.mark.parametrize(
    ("case", "plain"),
    [
        ("width-256 8x512 float32 checkpointing", "width-256 8x512 float32"),
        ("width-256 32x512 float32 checkpointing", "width-256 32x512 float32"),
        ("smollm2-135m 2x512 float32 checkpointing", "smollm2-135m 2x512 float32"),
        ("tinyllama 1x512 float32 checkpointing", "tinyllama 1x512 float32"),
        ("width-256 4x256 float32 int8", "width-256 8x256 float32"),
        ("width-256 4x256 float32 nf4", "width-256 8x256 float32"),
        ("smollm2-135m 2x256 float32 nf4", "smollm2-135m 2x256 float32"),
        ("width-256 8x256 float32 checkpointing nf4", "width-256 8x256 float32"),
    ],
)
def test_what_settings_cost_is_near_what_was_measured(case: str, plain: str) -> None:
    words = case.split()
    quantization = next((word for word in words if word in ("int8", "nf4")), "none")
    planned = settings_cost(
        Settings(
            quantization=quantization,  # type: ignore[arg-type]
            per_device_train_batch_size=1,
            gradient_accumulation_steps=1,
            gradient_checkpointing="checkpointing" in words,
            compact=True,
        ),
        "cpu",
    )
    assert 2 / 3 < planned / (seconds_per_token(case) / seconds_per_token(plain)) < 3 / 2
