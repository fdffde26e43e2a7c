"""Changes of course: smaller micro-batches hold the same examples, fewer steps end where the schedule would have."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.training.tiny import config

from vademecum.errors import RunError
from vademecum.training.adaptations import Adaptation, Schedule, follow, halving
from vademecum.training.batching import Layout, lay_out


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    lengths = draw(st.lists(st.integers(1, 32), min_size=1, max_size=60))
    knobs = config(
        batching=draw(st.sampled_from(["grouped", "padded", "packed"])),
        per_device_train_batch_size=draw(st.integers(1, 5)),
        gradient_accumulation_steps=draw(st.integers(1, 4)),
    )
    return lay_out(lengths, knobs, seed=draw(st.integers(0, 9)), steps=draw(st.integers(1, 7)))


@settings(deadline=None)
@given(layout=layouts())
def test_a_halved_layout_has_the_same_examples_in_every_step(layout: Layout) -> None:
    fewest = min(sum(map(len, layout.step(number))) for number in range(layout.steps))
    assume(fewest > layout.accumulation)
    halved = layout.halved()
    assert halved.accumulation == min(2 * layout.accumulation, fewest)
    assert halved.steps == layout.steps
    assert len(halved.micro_batches) == halved.steps * halved.accumulation
    assert all(halved.micro_batches)
    for number in range(layout.steps):
        before, after = (Counter(index for rows in one.step(number) for index in rows) for one in (layout, halved))
        assert after == before
    assert halved.worst_tokens <= layout.worst_tokens
    assert halved.real_tokens == layout.real_tokens


def test_even_micro_batches_come_in_halves_and_odd_ones_nearly() -> None:
    even = Layout([[0, 1, 2, 3], [4, 5, 6, 7]], 2, None, [4] * 8)
    assert even.halved().micro_batches == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert even.halved().halved().micro_batches == [[number] for number in range(8)]
    odd = Layout([[0, 1, 2], [3]], 2, None, [4, 4, 4, 12])
    assert odd.halved().micro_batches == [[0], [1], [2], [3]]


def test_a_step_with_few_rows_bounds_all_steps() -> None:
    layout = Layout([[0, 1], [2], [3, 4, 5], [6, 7, 8]], 2, None, [4] * 9)
    assert layout.halved().micro_batches == [[0], [1], [2], [3], [4, 5], [6, 7, 8]]


def test_single_rows_cannot_be_halved() -> None:
    with pytest.raises(
        RunError, match="cannot be made smaller: an optimizer step has 2 rows in 2 micro-batches"
    ) as caught:
        halving(Layout([[0], [1]], 2, None, [4, 4]), step=3)
    assert "train.gradient_checkpointing" in caught.value.hint


@settings(deadline=None)
@given(planned=st.integers(1, 500), step=st.integers(0, 500))
def test_an_uncut_schedule_is_the_planned_one(planned: int, step: int) -> None:
    assume(step <= planned)
    assert Schedule(planned).position(step) == step


@settings(deadline=None)
@given(planned=st.integers(3, 500), data=st.data())
def test_a_cut_schedule_goes_on_where_it_was_and_ends_where_it_would_have(planned: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, planned - 2))
    steps = data.draw(st.integers(step + 1, planned - 1))
    schedule = Schedule(planned).cut(step, steps)
    for before in range(step + 1):
        assert schedule.position(before) == before
    for after in range(step, steps + 1):
        assert schedule.position(after) == pytest.approx(step + (after - step) * (planned - step) / (steps - step))
    assert schedule.position(steps) == planned


@settings(deadline=None)
@given(planned=st.integers(9, 300), data=st.data())
def test_cuts_add_up(planned: int, data: st.DataObject) -> None:
    layout = lay_out([8] * 8, config(), seed=0, steps=planned)
    changes: list[Adaptation] = []
    steps, step = planned, 0
    while len(changes) < 3 and steps - step > 2:
        step = data.draw(st.integers(step, steps - 2))
        fewer = data.draw(st.integers(step + 1, steps - 1))
        changes.append(
            Adaptation(
                step=step, change="steps_cut", cause="time_limit", before=steps, after=fewer, measured=2, limit=1
            )
        )
        steps = fewer
    left, schedule = follow(layout, changes)
    assert left.steps == steps
    assert left.micro_batches == layout.micro_batches[: steps * layout.accumulation]
    positions = [schedule.position(number) for number in range(steps + 1)]
    assert positions[0] == 0
    assert positions[-1] == planned
    assert all(before < after for before, after in pairwise(positions))


def test_changes_are_said_in_words() -> None:
    layout = Layout([[0, 1], [2, 3]], 2, None, [4] * 4)
    assert halving(layout, step=7).in_words() == (
        "after step 7: out of memory, so the examples of an optimizer step come in 4 micro-batches instead of 2"
    )
    assert "held 5.31 GB and may hold 4.00 GB" in halving(layout, 7, 5.31e9, 4e9).in_words()
    cut = Adaptation(step=30, change="steps_cut", cause="time_limit", before=120, after=80, measured=2472, limit=2220)
    assert "41.2 minutes at this pace and has 37.0" in cut.in_words()
    assert "80 optimizer steps instead of 120" in cut.in_words()
