"""Layouts: who meets whom, how level the steps are, and what the collators hand to the model."""

from collections import Counter
from collections.abc import Sequence
from math import log
from random import Random
from statistics import mean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vademecum.config.sections import TrainConfig
from vademecum.errors import InputError
from vademecum.training.batching import Layout, collate, collate_packed, lay_out, pack
from vademecum.training.supervision import Example


def realistic_lengths(rows: int, seed: int = 0) -> list[int]:
    """Lengths like those of MedQuAD's rows: lognormal, mean near 250, cut at 512."""
    rng = Random(seed)
    return [min(512, max(20, int(rng.lognormvariate(log(250) - 0.3, 0.8)))) for _ in range(rows)]


def config(**values: Any) -> TrainConfig:
    return TrainConfig(**{"num_train_epochs": 1.0, **values})


def example(*ids: int, prompt: int = 1) -> Example:
    return Example(id=str(ids), input_ids=list(ids), labels=[-100] * prompt + list(ids[prompt:]))


def seen(layout: Layout) -> Counter[int]:
    return Counter(index for rows in layout.micro_batches for index in rows)


@pytest.mark.parametrize(("batch", "accumulation"), [(8, 2), (4, 4), (1, 8), (16, 1)])
def test_grouped_wastes_at_most_two_per_cent_on_realistic_lengths(batch: int, accumulation: int) -> None:
    layout = lay_out(
        realistic_lengths(3000),
        config(per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation),
        seed=0,
    )
    assert layout.padded_fraction <= 0.01
    assert layout.steps == round(3000 / (batch * accumulation))
    assert seen(layout) == Counter(range(3000))


@pytest.mark.parametrize(("batch", "accumulation"), [(8, 2), (4, 4), (1, 8), (16, 2)])
@pytest.mark.parametrize("rows", [1600, 9000])
def test_grouped_steps_are_level_in_real_tokens(rows: int, batch: int, accumulation: int) -> None:
    train = config(per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation)
    layout = lay_out(realistic_lengths(rows), train, seed=0)
    tokens = [layout.step_counts(number)["real_tokens"] for number in range(layout.steps)]
    within = [count for count in tokens if abs(count / mean(tokens) - 1) <= 0.10]
    assert len(within) >= 0.95 * len(tokens)
    assert all(abs(count / mean(tokens) - 1) <= 0.15 for count in tokens)


def test_grouped_micro_batches_stay_near_their_token_budget() -> None:
    lengths = realistic_lengths(3000)
    layout = lay_out(lengths, config(per_device_train_batch_size=8), seed=0)
    assert layout.worst_tokens == max(layout.slots_of(rows) for rows in layout.micro_batches)
    assert layout.worst_tokens <= 8 * mean(lengths) + 512


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 64), min_size=1, max_size=40),
    batch=st.integers(1, 5),
    accumulation=st.integers(1, 5),
    passes=st.integers(1, 3),
    seed=st.integers(0, 5),
)
def test_grouped_passes_see_every_row_once(
    lengths: list[int], batch: int, accumulation: int, passes: int, seed: int
) -> None:
    per_step = batch * accumulation
    at_once = -(-per_step // len(lengths))
    train = config(
        max_length=64,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=passes * at_once,
    )
    layout = lay_out(lengths, train, seed=seed)
    assert len(layout.micro_batches) == layout.steps * accumulation
    assert all(layout.micro_batches)
    assert seen(layout) == Counter(dict.fromkeys(range(len(lengths)), passes * at_once))
    assert layout == lay_out(lengths, train, seed=seed)


@pytest.mark.parametrize("batching", ["grouped", "padded", "packed"])
def test_more_steps_go_on_where_fewer_end(batching: str) -> None:
    lengths, train = realistic_lengths(50), config(batching=batching, per_device_train_batch_size=4)
    short, long = (lay_out(lengths, train, seed=3, steps=steps) for steps in (5, 23))
    assert (short.steps, long.steps) == (5, 23)
    assert long.micro_batches[: len(short.micro_batches)] == short.micro_batches
    assert lay_out(lengths, train, seed=4, steps=5) != short


def test_max_steps_decides_where_the_caller_does_not() -> None:
    assert lay_out([20] * 40, config(max_steps=7), seed=0).steps == 7


def test_half_passes_count() -> None:
    assert lay_out([20] * 160, config(num_train_epochs=2.5), seed=0).steps == 25


def test_padded_takes_exactly_the_configured_examples_per_step() -> None:
    layout = lay_out(
        realistic_lengths(50),
        config(batching="padded", per_device_train_batch_size=3, gradient_accumulation_steps=2),
        seed=0,
    )
    assert {len(rows) for rows in layout.micro_batches} == {3}
    assert layout.steps == 9  # 50 rows at 6 a step; the ninth is filled from a second pass
    assert layout.pad_to == 512
    assert layout.worst_tokens == 3 * 512
    assert seen(layout).total() == 54
    assert Counter(index for rows in layout.micro_batches[:17] for index in rows)[0] <= 2
    assert set(seen(layout)) == set(range(50))


def test_packed_rows_hold_whole_examples_and_no_padding() -> None:
    lengths = realistic_lengths(1100)
    bins = pack(lengths, 512)
    assert sorted(index for row in bins for index in row) == list(range(1100))
    assert all(sum(lengths[index] for index in row) <= 512 for row in bins)
    layout = lay_out(
        lengths, config(batching="packed", per_device_train_batch_size=1, gradient_accumulation_steps=2), seed=0
    )
    assert layout.padded_fraction == 0
    assert layout.worst_tokens <= 512
    assert layout.steps == -(-len(bins) // 2)


def test_step_counts_are_of_the_step() -> None:
    layout = Layout([[0, 1], [2], [1], [0]], accumulation=2, pad_to=None, lengths=[3, 5, 7])
    assert layout.step_counts(0) == {"real_tokens": 15, "slots": 17, "examples": 3}
    assert layout.step_counts(1) == {"real_tokens": 8, "slots": 8, "examples": 2}
    assert layout.select([1]).micro_batches == [[1], [0]]
    assert (layout.real_tokens, layout.slots, layout.worst_tokens) == (23, 25, 10)


@pytest.mark.parametrize(("lengths", "found"), [([], "no rows"), ([5, 600], "row 1 has 600 tokens")])
def test_rows_that_cannot_be_laid_out_are_named(lengths: Sequence[int], found: str) -> None:
    with pytest.raises(InputError, match=found):
        lay_out(lengths, config(), seed=0)


def test_collate_pads_on_the_right_and_counts_positions_through() -> None:
    batch = collate([example(5, 6, 7), example(8, 9)], pad_id=9, pad_to=4)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 9], [8, 9, 9, 9]]
    assert batch["labels"].tolist() == [[-100, 6, 7, -100], [-100, 9, -100, -100]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3]] * 2
    assert set(batch) == {"input_ids", "labels", "position_ids"}


def test_collate_is_as_wide_as_its_longest_row() -> None:
    assert collate([example(5, 6, 7), example(8, 9)], pad_id=0)["input_ids"].shape == (2, 3)


def test_collate_packed_restarts_positions_without_a_mask() -> None:
    batch = collate_packed([example(5, 6, 7), example(8, 9)], pad_id=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
    assert batch["labels"].tolist() == [[-100, 6, 7, -100, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert "attention_mask" not in batch


@pytest.mark.parametrize(
    ("given", "shape"),
    [
        ({}, (16, 1)),
        ({"examples_per_step": 12}, (12, 1)),
        ({"per_device_train_batch_size": 3, "gradient_accumulation_steps": 4}, (3, 4)),
        ({"per_device_train_batch_size": 4}, (4, 4)),
        ({"gradient_accumulation_steps": 4}, (4, 4)),
        ({"examples_per_step": 5, "per_device_train_batch_size": 2}, (2, 3)),
    ],
)
def test_what_is_unset_follows_from_the_examples_per_step(given: dict[str, int], shape: tuple[int, int]) -> None:
    assert config(**given).batch_shape == shape
