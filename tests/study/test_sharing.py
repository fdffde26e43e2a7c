"""Trials that train together on one frozen base, over sittings: stopped, added to, finished by hand, failed."""

import json
import shutil
import signal
from pathlib import Path

import pytest
from tests.listener import Listener
from tests.study.test_execution import SMALL, entries, tiny_study

from vademecum.errors import StoppedError
from vademecum.planning import Plan
from vademecum.stages import Road, run_road
from vademecum.stopping import Stop
from vademecum.study import Setting, StudyConfig, make_executor, run_study, trial_run
from vademecum.study.design import Trial, lay_out_design
from vademecum.study.execution import prepare_study
from vademecum.study.folder import StudyFolder
from vademecum.study.sharing import Group, share_groups, sharing_pays, take_up_groups, train_trials, why_alone


@pytest.mark.parametrize(
    ("device", "tokens", "pays"), [("cpu", 10, False), ("cuda", 500, True), ("cuda", 16_000, False), ("mps", 500, True)]
)
def test_sharing_a_base_pays_where_launching_takes_longer_than_running(device: str, tokens: int, pays: bool) -> None:
    assert sharing_pays(Plan.model_construct(device=device, micro_batch_tokens=tokens)) is pays


def test_why_trials_are_not_trained_together_is_said(tiny_checkpoint: Path) -> None:
    def reason(*more: str) -> str:
        return why_alone(lay_out_design(tiny_study(tiny_checkpoint, *more, **SMALL)).trials())

    assert "lora_dropout is 0.1" in reason("lora.lora_dropout=0.1")
    assert "gradient_checkpointing is on" in reason("train.gradient_checkpointing=true")


@pytest.mark.parametrize(
    ("seeds", "lanes", "sizes"),
    [(15, 1, [16]), (16, 1, [8, 9]), (16, 4, [4, 4, 4, 5]), (16, 8, [2] * 7 + [3]), (2, 8, [3]), (33, 2, [11, 11, 12])],
)
def test_trials_that_share_a_base_are_grouped_evenly_over_the_gpus(
    tiny_checkpoint: Path, seeds: int, lanes: int, sizes: list[int]
) -> None:
    trials = lay_out_design(tiny_study(tiny_checkpoint, **(SMALL | {"baseline_seeds": tuple(range(seeds))}))).trials()
    groups = share_groups(trials, lanes)
    assert sorted(len(names) for names in groups) == sizes
    assert sorted(name for names in groups for name in names) == sorted(trial.name for trial in trials)


def test_shapes_of_their_own_are_grouped_apart_and_the_larger_set_has_more_gpus(tiny_checkpoint: Path) -> None:
    ranks = {"name": "rank", "levels": ("lora.r=2", "lora.r=4")}
    fields = {"factors": (ranks,), "claims": (), "baseline_seeds": tuple(range(6)), "seeds": (0, 1)}
    groups = share_groups(lay_out_design(tiny_study(tiny_checkpoint, **fields)).trials(), 4)
    assert groups == [
        tuple(f"baseline-seed{seed}" for seed in (0, 1, 2)), tuple(f"baseline-seed{seed}" for seed in (3, 4, 5)),
        ("rank=2-seed0", "rank=2-seed1"), ("rank=4-seed0", "rank=4-seed1"),
    ]  # fmt: skip
    assert share_groups([], 4) == []


class StopsAtStep(Listener):
    """Asks to stop once a training has got so far."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.stop = Stop()
        self._steps = steps

    def progress(self, done: float, total: float, unit: str) -> None:
        if unit == "steps" and done >= self._steps:
            self.stop.ask(signal.SIGINT)


def begin_together(study: StudyConfig, path: Path, steps: int) -> list[Trial]:
    """The trials of a study, which were trained together for some steps, by hand."""
    folder, listener = StudyFolder(path), StopsAtStep(steps)
    _, _, trials = prepare_study(study, folder, Setting(make_executor("local"), listener))
    for trial in trials:
        folder.begin(trial)
    names = [trial.name for trial in trials]
    with pytest.raises(StoppedError):
        train_trials(path, names, lambda run, config, shared: Road(run, config, listener, False, listener.stop, shared))
    return trials


def clock(path: Path, name: str) -> list[str]:
    """Of each step of a trial, the untrained model's row left out: done again, it would show another time."""
    rows = (path / "trials" / name / "timing.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in rows if json.loads(row)["step"]]


def work_together(study: StudyConfig, path: Path) -> Listener:
    listener = Listener()
    run_study(study, path, Setting(make_executor("local"), listener, at_once=2, share_base=True))
    return listener


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_trials_begun_together_go_on_together_whatever_has_come_between(tiny_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "s"
    names = [trial.name for trial in begin_together(tiny_study(tiny_checkpoint, **SMALL), path, 2)]
    # One of them is trained by hand, and a seed is added.
    run, config, shared = trial_run(path, names[0])
    run_road(Road(run, config, Listener(), reuse=shared), until="train")
    before = {name: clock(path, name) for name in names[1:]}
    listener = work_together(tiny_study(tiny_checkpoint, **(SMALL | {"baseline_seeds": (0, 1, 2)})), path)
    assert "training together" in listener.worked
    assert not [said for said in listener.said if "together" in said]
    for name, times in before.items():
        assert len(times) == 2
        assert clock(path, name)[:2] == times
    found = json.loads((path / "study.json").read_text(encoding="utf-8"))
    assert [row["status"] for row in found["trials"]] == ["completed"] * 4
    assert not list((path / "work").iterdir())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_could_not_be_trained_together_is_trained_alone_from_then_on(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    path, study = tmp_path / "s", tiny_study(tiny_checkpoint, **SMALL)
    trials = begin_together(study, path, 1)
    checkpoints = Group(path, tuple(trial.name for trial in trials)).checkpoints
    shutil.rmtree(checkpoints)
    checkpoints.write_text("in the way", encoding="utf-8")  # so that nothing can be saved
    stop = Stop()

    class StopsAfterFailure(Listener):
        def say(self, text: str) -> None:
            super().say(text)
            if text.startswith("training together ended with exit code 1"):
                stop.ask(signal.SIGINT)

    listener = StopsAfterFailure()
    with pytest.raises(StoppedError):
        run_study(study, path, Setting(make_executor("local"), listener, stop=stop, share_base=True))
    checkpoints.unlink()
    assert "training together" not in work_together(study, path).worked
    found = json.loads((path / "study.json").read_text(encoding="utf-8"))
    assert {row["status"] for row in found["trials"]} == {"completed"}
    work_together(study, path)
    assert not list((path / "work").iterdir())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_trial_that_was_begun_alone_is_not_thrown_back(tiny_checkpoint: Path, tmp_path: Path) -> None:
    path, study = tmp_path / "s", tiny_study(tiny_checkpoint, **SMALL)
    trials = begin_together(study, path, 1)
    alone, *others = [trial.name for trial in trials]
    run, config, shared = trial_run(path, alone)
    listener = StopsAtStep(3)
    with pytest.raises(StoppedError):
        run_road(Road(run, config, listener, False, listener.stop, shared))
    times = clock(path, alone)
    assert len(times) == 3
    going, free = take_up_groups(StudyFolder(path), trials)
    assert [group.names for group in going] == [(*others, alone)]
    assert free == []
    train_trials(path, going[0].names, lambda run, config, shared: Road(run, config, Listener(), reuse=shared))
    assert clock(path, alone) == times
    assert "train" not in run.entries()
    assert all("train" in entries(path / "trials" / name) for name in others)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_first_trial_that_diverges_is_no_failure_of_training_together(tiny_checkpoint: Path, tmp_path: Path) -> None:
    factors = ({"name": "learning rate", "levels": ("train.learning_rate=5e-3",)},)
    study = tiny_study(tiny_checkpoint, "train.learning_rate=1e30", factors=factors, claims=(), baseline_seeds=(0, 1))
    listener = work_together(study, tmp_path / "s")
    assert "training together" in listener.worked
    assert not [said for said in listener.said if "together" in said]
    found = json.loads((tmp_path / "s" / "study.json").read_text(encoding="utf-8"))
    assert [row["status"] for row in found["trials"]] == ["diverged", "diverged", "completed"]
