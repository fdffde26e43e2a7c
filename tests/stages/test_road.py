"""Stages are run when, and only when, what they read has changed; finished long work is protected."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.listener import Listener

from vademecum.config import RunConfig, load_config
from vademecum.errors import ConfigError, StaleError
from vademecum.runs import Run
from vademecum.stages import road as road_module
from vademecum.stages.road import Road, Stage, seconds_spent, walk


def copies(target: str, source: str | None, setting: Callable[[RunConfig], object]) -> Callable[[Road, Path], None]:
    """Work that writes a file from another file and one setting."""

    def work(road: Road, _: Path) -> None:
        before = road.run.file(source).read_text(encoding="utf-8") if source else ""
        road.run.write_text(target, f"{before}{setting(road.config)}\n")

    return work


STAGES = [
    Stage("prepare", ("seed",), (), ("pairs",), copies("pairs", None, lambda config: config.seed % 10)),
    Stage(
        "train", ("train.learning_rate",), ("pairs",), ("adapter",),
        copies("adapter", "pairs", lambda config: config.train.learning_rate), precious=True,
    ),
    Stage(
        "score/a", ("evaluate.level",), ("adapter",), ("scores",),
        copies("scores", "adapter", lambda config: config.evaluate.level),
    ),
]  # fmt: skip


def go(folder: Path, *settings: str, until: str | None = None, force: tuple[str, ...] = ()) -> list[str]:
    listener = Listener()
    walk(Road(Run.create(folder), load_config("demo", settings), listener), STAGES, until=until, force=force)
    return listener.worked


def test_a_kill_loses_no_more_than_a_moment_of_a_stage_s_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(road_module, "CLOCK_SECONDS", 0.05)
    kept: list[float] = []

    def work(road: Road, folder: Path) -> None:
        time.sleep(0.1)
        road.observer.progress(1, 2, "halves")
        kept.append(json.loads((folder / "seconds.json").read_text(encoding="utf-8")))  # what a kill would leave
        road.run.write_text("pairs", "")

    run = Run.create(tmp_path)
    stage = Stage("prepare", ("seed",), (), ("pairs",), work)
    walk(Road(run, load_config("demo"), Listener()), [stage])
    assert 0.1 <= kept[0] <= run.entries()["prepare"].seconds + 0.001


def test_second_walk_does_nothing(tmp_path: Path) -> None:
    assert go(tmp_path) == ["prepare", "train", "score/a"]
    assert go(tmp_path) == []


def test_only_what_follows_from_a_change_is_done_again(tmp_path: Path) -> None:
    go(tmp_path)
    assert go(tmp_path, "evaluate.level=0.9") == ["score/a"]


def test_a_change_that_comes_to_nothing_stops_there(tmp_path: Path) -> None:
    go(tmp_path, until="prepare")
    assert go(tmp_path, "seed=10") == ["prepare", "train", "score/a"]
    assert go(tmp_path, "seed=20", force=("prepare",)) == ["prepare"]  # 20 % 10 == 10 % 10: the same pairs


def test_finished_training_is_not_overwritten_unasked(tmp_path: Path) -> None:
    go(tmp_path)
    kept = (
        (tmp_path / "adapter").read_bytes(),
        (tmp_path / "pairs").read_bytes(),
        (tmp_path / "config.json").read_bytes(),
    )
    for setting in ("train.learning_rate=0.5", "seed=3"):
        with pytest.raises(StaleError, match="train") as caught:
            go(tmp_path, setting)
        assert "--force train" in caught.value.hint
    assert kept == (
        (tmp_path / "adapter").read_bytes(),
        (tmp_path / "pairs").read_bytes(),
        (tmp_path / "config.json").read_bytes(),
    )
    assert go(tmp_path, "seed=3", force=("train",)) == ["prepare", "train", "score/a"]


def test_lost_output_is_made_anew(tmp_path: Path) -> None:
    go(tmp_path)
    (tmp_path / "pairs").unlink()
    assert go(tmp_path) == ["prepare"]
    (tmp_path / "adapter").unlink()
    assert go(tmp_path) == ["train"]


def test_force_repeats_a_stage_with_the_same_inputs(tmp_path: Path) -> None:
    go(tmp_path)
    assert go(tmp_path, force=("score",)) == ["score/a"]


def test_until_stops_there_and_unknown_stages_are_named(tmp_path: Path) -> None:
    assert go(tmp_path, until="train") == ["prepare", "train"]
    with pytest.raises(ConfigError, match="trian") as caught:
        go(tmp_path, until="trian")
    assert "prepare, train, score" in caught.value.hint


def test_stage_that_fails_is_not_entered_and_is_run_again(tmp_path: Path) -> None:
    broken = [STAGES[0], Stage("train", (), ("pairs",), ("adapter",), lambda road, folder: 1 / 0)]  # type: ignore[arg-type]
    run = Run.create(tmp_path)
    with pytest.raises(ZeroDivisionError):
        walk(Road(run, load_config("demo"), Listener()), broken)
    assert list(run.entries()) == ["prepare"]
    assert go(tmp_path) == ["train", "score/a"]


def test_what_another_run_made_from_the_same_inputs_is_taken_over(tmp_path: Path) -> None:
    go(tmp_path / "first")

    def again(name: str, *settings: str, force: tuple[str, ...] = ()) -> list[str]:
        listener = Listener()
        first = Run.open(tmp_path / "first")
        road = Road(Run.create(tmp_path / name), load_config("demo", settings), listener, reuse=first)
        walk(road, STAGES, force=force)
        return listener.worked

    assert again("same") == []
    assert again("scored otherwise", "evaluate.level=0.9") == ["score/a"]
    assert again("trained otherwise", "train.learning_rate=0.5") == ["train", "score/a"]
    assert again("forced", force=("train",)) == ["train"]
    for name in ("same", "forced"):
        assert (tmp_path / name / "scores").read_bytes() == (tmp_path / "first" / "scores").read_bytes()
    # Taken over once, it is the run's own: what happens to the first run is of no account.
    (tmp_path / "first" / "adapter").unlink()
    assert again("same") == []


def test_damaged_work_is_not_taken_over(tmp_path: Path) -> None:
    go(tmp_path / "first")
    (tmp_path / "first" / "adapter").write_text("something else", encoding="utf-8")
    listener = Listener()
    walk(Road(Run.create(tmp_path / "b"), load_config("demo"), listener, reuse=Run.open(tmp_path / "first")), STAGES)
    assert listener.worked == ["train"]


def test_what_a_run_took_counts_every_sitting_and_nothing_that_another_did(tmp_path: Path) -> None:
    shared, run = Run.create(tmp_path / "shared"), Run.create(tmp_path / "run")
    walk(Road(shared, load_config("demo"), Listener()), STAGES, until="prepare")
    road = Road(run, load_config("demo"), Listener(), reuse=shared)
    broken = Stage("score/a", (), ("adapter",), ("scores",), lambda road, folder: 1 / 0)  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError):
        walk(road, [*STAGES[:2], broken])
    kept = run.read_json("work/score/a/seconds.json")
    assert kept > 0
    assert seconds_spent(run, shared) == run.entries()["train"].seconds + kept
    walk(road, STAGES)
    entries = run.entries()
    assert seconds_spent(run, shared) == entries["train"].seconds + entries["score/a"].seconds
    assert seconds_spent(run) == sum(entry.seconds for entry in entries.values())
