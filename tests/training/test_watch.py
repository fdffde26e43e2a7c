"""Before every step: does training keep within its memory and its time?"""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.training.tiny import config, data

from vademecum.training import watch
from vademecum.training.adaptations import Adaptation
from vademecum.training.protocol import TrainingData
from vademecum.training.watch import Watch


def given(steps: int, **limits: Any) -> TrainingData:
    return data(config(max_steps=steps), **limits)


def look_at(training: TrainingData, times: list[float]) -> list[Adaptation | None]:
    """What is said before the first step, the second …, which begin at `times`."""
    clock: Iterator[float] = iter(times[1:])
    looker = Watch(training, lambda: next(clock))
    return [looker.look(step) for step in range(len(times))]


def test_a_training_in_time_is_left_alone() -> None:
    assert set(look_at(given(10, time_limit_seconds=22.8), [0, 5, 7, 9, 11, 13, 15])) == {None}
    assert set(look_at(given(10), [0, 100, 200, 300, 400, 500, 600])) == {None}


def test_steps_are_cut_to_what_fits_when_the_pace_is_known() -> None:
    found = look_at(given(20, time_limit_seconds=30), [0, 9, 11, 13, 15])
    assert found[:4] == [None] * 4  # the first step is a slow one, and three are needed
    assert found[4] == Adaptation(
        step=4, change="steps_cut", cause="time_limit", before=20, after=11, measured=15 + 16 * 2, limit=30
    )


def test_one_long_step_sets_no_pace() -> None:
    assert set(look_at(given(10, time_limit_seconds=60), [0, 1, 2, 3, 33, 34, 35])) == {None}


def test_when_time_is_over_one_step_is_left() -> None:
    found = look_at(given(20, time_limit_seconds=10), [0, 9, 11, 13, 15])[4]
    assert found is not None
    assert found.after == 5


def test_a_last_step_is_not_cut() -> None:
    assert look_at(given(5, time_limit_seconds=1), [0, 9, 11, 13, 15])[4] is None


def test_memory_is_read_before_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([50, 60, 101])
    monkeypatch.setattr(watch, "process_peak_bytes", lambda: next(readings))
    looker = Watch(given(6, memory_limit_bytes=100), lambda: 0.0)
    assert looker.look(0) is None
    assert looker.look(1) == Adaptation(
        step=1, change="micro_batches_halved", cause="memory_limit", before=2, after=4, measured=101, limit=100
    )


def test_what_was_held_before_training_is_not_its_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([150, 150, 151])
    monkeypatch.setattr(watch, "process_peak_bytes", lambda: next(readings))
    looker = Watch(given(6, memory_limit_bytes=100), lambda: 0.0)
    assert looker.look(0) is None
    assert looker.look(1) is not None
