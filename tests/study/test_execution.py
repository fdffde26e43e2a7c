"""A study on the tiny checkpoint: sized once, shared work made once, trials as runs, killed and taken up again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.listener import Listener, go

from vademecum.config import load_config
from vademecum.errors import InputError, RunError, StaleError
from vademecum.stopping import Stop
from vademecum.study import Setting, StudyConfig, load_study, make_executor, run_study, trial_run
from vademecum.study.design import lay_out_design
from vademecum.study.execution import prepare_study
from vademecum.study.executors import Task
from vademecum.study.executors.tasks import Finished
from vademecum.study.folder import StudyFolder
from vademecum.study.verdict import judge

TINY = (
    "corpus.source=sample", "corpus.drop_duplicates=true", "split.train=0.62", "split.validation=0.08",
    "split.test=0.3", "model.device=cpu", "model.dtype=float32", "train.max_length=512", "train.max_cut_share=1.0",
    "train.eval_pairs=4", "train.max_pairs=16", "lora.lora_dropout=0", "train.gradient_checkpointing=false",
    "generate.max_new_tokens=12", "generate.test_pairs=24",
    "generate.batch_size=24", "evaluate.resamples=200",
)  # fmt: skip
SMALL: dict[str, Any] = {
    "factors": ({"name": "learning rate", "levels": ("train.learning_rate=5e-3", "train.learning_rate=1e-3")},),
    "baseline_seeds": (0, 1),
    "claims": ({"name": "slower is better", "variant": "learning rate=1e-3", "against": "learning rate=5e-3"},),
}


def tiny_study(checkpoint: Path, *more: str, **fields: object) -> StudyConfig:
    declared = load_study("paper-study", [f"model.name={checkpoint}", *TINY, *more])
    return StudyConfig.model_validate(declared.model_dump() | fields)


def work(study: StudyConfig, folder: Path) -> tuple[dict[str, Any], Listener]:
    listener = Listener()
    run_study(study, folder, Setting(make_executor("local"), listener, at_once=2))
    return json.loads((folder / "study.json").read_text(encoding="utf-8")), listener


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    folder = tmp_path_factory.mktemp("study") / "studies" / "small"
    work(tiny_study(tiny_checkpoint, **SMALL), folder)
    return folder


def test_every_trial_has_its_result_and_every_claim_its_verdict(finished: Path) -> None:
    found = json.loads((finished / "study.json").read_text(encoding="utf-8"))
    names = {"baseline-seed0", "baseline-seed1", "learning-rate=5e-3-seed0"}
    assert {row["name"] for row in found["trials"]} == names
    assert {row["status"] for row in found["trials"]} == {"completed"}
    assert [row["verdict"] for row in found["claims"]] == ["not shown"]  # two seeds of a tiny model show nothing
    assert set(found) >= {"trials", "factors", "noise_floor", "claims"}
    for name in ("study.md", "study.html", "study.tex"):
        assert "learning rate" in (finished / name).read_text(encoding="utf-8")


def test_a_report_names_no_path_of_this_machine(finished: Path, tiny_checkpoint: Path) -> None:
    for name in ("study.md", "study.html", "study.tex", "study.json"):
        text = (finished / name).read_text(encoding="utf-8")
        assert str(tiny_checkpoint.parent) not in text
        assert str(finished.parent) not in text


def test_the_command_in_the_report_goes_on_with_this_study(finished: Path) -> None:
    command = "vade study studies/small/study-config.json"
    assert command in (finished / "study.md").read_text(encoding="utf-8")
    before = (finished / "study.json").stat().st_mtime_ns
    home = finished.parent.parent
    subprocess.run([sys.executable, "-m", "vademecum", "--quiet", *command.split()[1:]], cwd=home, check=True)
    assert [path.name for path in (home / "studies").iterdir()] == ["small"]
    assert (finished / "study.json").stat().st_mtime_ns > before  # judged again, nothing else


def test_what_all_trials_share_is_made_once(finished: Path) -> None:
    for trial in (finished / "trials").iterdir():
        for name in ("pairs.jsonl", "splits.jsonl", "predictions/base.jsonl", "scores/copy.jsonl"):
            assert (trial / name).samefile(finished / "shared" / name)
        shared, own = (json.loads((folder / "plan.json").read_text()) for folder in (finished / "shared", trial))
        assert own["rates"] == shared["rates"]  # probed once


def test_a_trial_is_the_run_that_anyone_could_have_started(finished: Path, tmp_path: Path) -> None:
    trial = finished / "trials" / "learning-rate=5e-3-seed0"
    go(tmp_path / "alone", load_config(trial / "config.json"))
    for name in ("training.jsonl", "adapter/adapter_model.safetensors", "predictions/tuned.jsonl", "scores/base.jsonl"):
        assert (tmp_path / "alone" / name).read_bytes() == (trial / name).read_bytes()


def test_seeds_change_the_training_and_nothing_else(finished: Path) -> None:
    first, second = (finished / "trials" / f"baseline-seed{seed}" for seed in (0, 1))
    assert (first / "splits.jsonl").read_bytes() == (second / "splits.jsonl").read_bytes()
    supervision = [(folder / "supervision.json").read_bytes() for folder in (first, second)]
    assert supervision[0] == supervision[1]  # the same rows
    weights = [(folder / "adapter" / "adapter_model.safetensors").read_bytes() for folder in (first, second)]
    assert weights[0] != weights[1]


class Noting:
    """An executor that runs nothing."""

    def __init__(self) -> None:
        self.given: list[Task] = []

    def run(self, tasks: Sequence[Task], stop: Stop, finished: Finished) -> None:
        self.given += tasks


@pytest.mark.parametrize("pays", [False, True])
def test_left_open_trials_share_a_base_where_the_plan_says_that_it_pays_and_the_cores_as_many_as_fit(
    finished: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pays: bool
) -> None:
    folder, executor = tmp_path / "study", Noting()
    for name in ("shared", "study-config.json", "sizing.json"):
        part = finished / name
        (shutil.copytree if part.is_dir() else copy_file)(part, folder / name)
    monkeypatch.setattr("vademecum.study.execution.sharing_pays", lambda _: pays)
    monkeypatch.setattr("vademecum.study.execution.fitting_at_once", lambda _: 3)
    monkeypatch.setattr("vademecum.study.execution.usable_cores", lambda: 12)
    setting = Setting(executor, Listener(), at_once=None, share_base=None)
    with pytest.raises(RunError):  # no trial came to an end
        run_study(tiny_study(tiny_checkpoint, **SMALL), folder, setting)
    together = [task for task in executor.given if "--with" in task.command]
    assert [(task.threads, task.command.count("--with")) for task in together] == ([(12, 2)] if pays else [])
    alone = [task for task in executor.given if task not in together]
    assert [(task.name, task.threads) for task in alone] == [
        ("baseline-seed0", 4), ("baseline-seed1", 4), ("learning-rate=5e-3-seed0", 4),
    ]  # fmt: skip


def copy_file(file: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(file, to)


def test_a_finished_study_is_only_judged_again(finished: Path, tiny_checkpoint: Path) -> None:
    before = (finished / "study.json").read_bytes()
    _, listener = work(tiny_study(tiny_checkpoint, **SMALL), finished)
    assert "trials" not in listener.worked
    assert (finished / "study.json").read_bytes() == before


def test_a_finished_trial_whose_file_was_cut_is_healed_by_the_same_command(
    finished: Path, tiny_checkpoint: Path
) -> None:
    before = json.loads((finished / "study.json").read_text(encoding="utf-8"))
    trial = finished / "trials" / "baseline-seed1"
    scores, trained = trial / "scores" / "tuned.jsonl", (trial / "training.json").stat().st_mtime_ns
    whole = scores.read_bytes()
    scores.write_bytes(whole[: len(whole) // 2])
    found, listener = work(tiny_study(tiny_checkpoint, **SMALL), finished)
    assert "baseline-seed1: completed" in listener.said
    assert scores.read_bytes() == whole
    assert found["claims"] == before["claims"]
    assert (trial / "training.json").stat().st_mtime_ns == trained  # no more than the scores was made anew


LATE = {"name": "it diverges", "variant": "learning rate=5e-3", "direction": "diverges"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"margins": {"rouge": 0.2, "validation_loss": 0.02}}, "the margins"),
        ({"claims": (*SMALL["claims"], LATE)}, "'it diverges'"),
        ({"claims": ()}, "'slower is better'"),
    ],
)
def test_what_was_not_declared_before_the_results_is_not_judged(
    finished: Path, tiny_checkpoint: Path, change: dict[str, object], words: str
) -> None:
    before = (finished / "study-config.json").read_bytes()
    with pytest.raises(StaleError, match=f"^{words} would be declared otherwise than before"):
        work(tiny_study(tiny_checkpoint, **(SMALL | change)), finished)
    assert (finished / "study-config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "dropped"),
    [
        ({"baseline_seeds": (0, 2)}, "baseline, seed 1"),
        ({"baseline_seeds": (2, 3)}, "baseline, seed 0; baseline, seed 1"),
        ({"seeds": (1, 2)}, "learning rate=5e-3, seed 0"),
        ({"factors": (), "claims": ()}, "learning rate=5e-3"),
    ],
)
def test_what_has_a_result_cannot_be_taken_away_or_exchanged(
    finished: Path, tiny_checkpoint: Path, change: dict[str, object], dropped: str
) -> None:
    before = (finished / "study-config.json").read_bytes()
    with pytest.raises(StaleError, match=f"^{dropped} would be dropped after the results"):
        work(tiny_study(tiny_checkpoint, **(SMALL | change)), finished)
    assert (finished / "study-config.json").read_bytes() == before


def test_seeds_that_were_declared_and_not_run_cannot_be_taken_away_either(
    finished: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Else a study could stop at the seeds that please."""
    folder = StudyFolder(shutil.copytree(finished, tmp_path / "s"))
    more = tiny_study(tiny_checkpoint, **(SMALL | {"baseline_seeds": (0, 1, 2)}))
    folder.check_claims(lay_out_design(more))
    folder.declare_claims(lay_out_design(more))
    with pytest.raises(StaleError, match=r"^baseline, seed 2 would be dropped"):
        folder.check_claims(lay_out_design(tiny_study(tiny_checkpoint, **SMALL)))


def test_a_study_remembers_the_seeds_of_its_first_verdicts(tmp_path: Path) -> None:
    folder, rate = StudyFolder(tmp_path / "s"), "learning rate=5e-3"
    assert folder.enter_judged(set(), {"baseline": [0, 1]}) == []
    assert not (tmp_path / "s" / "results").exists()
    assert folder.enter_judged({"baseline"}, {"baseline": [0, 1], rate: [0]}) == []
    for _ in range(2):
        assert folder.enter_judged({"baseline", rate}, {"baseline": [0, 1, 5], rate: [0, 1]}) == ["baseline, seed 5"]
    # Another machine judged another variant; the two folders are laid together.
    other = StudyFolder(tmp_path / "t")
    other.enter_judged({"warmup=0"}, {"warmup=0": [0]})
    shutil.copytree(tmp_path / "t" / "results", tmp_path / "s" / "results", dirs_exist_ok=True)
    ended = {"baseline": [0, 1], rate: [0, 1, 2], "warmup=0": [0, 1]}
    assert folder.enter_judged(set(), ended) == [f"{rate}, seed 2", "warmup=0, seed 1"]


def test_a_failed_trial_that_is_tried_again_after_a_verdict_is_told(
    finished: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Else a verdict could be given without it, and another one with it, and nobody would know."""
    folder = shutil.copytree(finished, tmp_path / "s")
    shutil.rmtree(folder / "results" / "judged")
    for name in ("trials/baseline-seed1", "results/baseline-seed1.json"):
        (folder / name).rename(tmp_path / Path(name).name)
    study = tiny_study(tiny_checkpoint, **SMALL)
    design, sizing, trials = prepare_study(study, StudyFolder(folder), Setting(make_executor("local"), Listener()))
    failed = next(trial for trial in trials if trial.name == "baseline-seed1")
    place = StudyFolder(folder)
    place.take_in({trial.name: {} for trial in trials})
    place.begin(failed)
    place.end(failed, 3)
    judge(design, trials, sizing, place)
    assert "Trials ended after" not in (folder / "study.md").read_text(encoding="utf-8")
    shutil.rmtree(folder / "trials" / "baseline-seed1")
    for name in ("trials/baseline-seed1", "results/baseline-seed1.json"):
        (tmp_path / Path(name).name).rename(folder / name)
    judge(design, trials, sizing, place)
    told = "Trials ended after a verdict had been given without them (baseline, seed 1)"
    assert told in (folder / "study.md").read_text(encoding="utf-8")


def test_a_seed_that_is_added_after_the_verdict_is_told_in_the_report(
    finished: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished, tmp_path / "s")
    found, _ = work(tiny_study(tiny_checkpoint, **(SMALL | {"baseline_seeds": (0, 1, 2)})), folder)
    assert {row["name"] for row in found["trials"]} >= {"baseline-seed2"}
    told = "Trials ended after a verdict had been given without them (baseline, seed 2)"
    assert told in (folder / "study.md").read_text(encoding="utf-8")
    assert told not in (finished / "study.md").read_text(encoding="utf-8")


def test_what_has_no_result_may_be_taken_away_and_added(finished: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    factors = (*SMALL["factors"], {"name": "rank", "levels": ("lora.r=2",)})
    claims = (*SMALL["claims"], {"name": "rank matters", "variant": "rank=2"})
    added = tiny_study(tiny_checkpoint, **(SMALL | {"factors": factors, "claims": claims, "baseline_seeds": (0, 1, 2)}))
    folder = StudyFolder(shutil.copytree(finished, tmp_path / "s"))
    folder.check_claims(lay_out_design(added))
    unclaimed = added.model_copy(update={"claims": tiny_study(tiny_checkpoint, **SMALL).claims})
    folder.declare_claims(lay_out_design(unclaimed))
    fewer = tiny_study(tiny_checkpoint, **(SMALL | {"baseline_seeds": (0, 1, 2)}))
    folder.check_claims(lay_out_design(fewer))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_trials_that_diverge_or_fail_are_results_and_failed_ones_are_tried_again(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    levels = ("train.learning_rate=1e30", "train.optim=no_such_optimizer")
    factors = ({"name": "wrong", "levels": levels},)
    claims = ({"name": "it diverges", "variant": "wrong=1e30", "direction": "diverges"},)
    study = tiny_study(tiny_checkpoint, **(SMALL | {"factors": factors, "claims": claims, "seeds": (0, 1)}))
    for tries in (1, 2):
        found, listener = work(study, tmp_path / "s")
        rows = {row["name"]: row for row in found["trials"]}
        assert rows["wrong=1e30-seed0"]["status"] == "diverged"
        assert rows["wrong=no_such_optimizer-seed0"]["status"] == "failed"
        assert rows["baseline-seed1"]["status"] == "completed"
        assert [row["verdict"] for row in found["claims"]] == ["reproduced"]
        failed = tmp_path / "s" / "trials" / "wrong=no_such_optimizer-seed0"
        why = json.loads((failed / "failure.json").read_text(encoding="utf-8"))["remark"]
        assert "no_such_optimizer" in why
        assert any(why in said for said in listener.said)
        # The report is passed on, and an error may name paths or quote the corpus.
        assert "its trial.log says why" in rows["wrong=no_such_optimizer-seed0"]["remark"]
        log = (failed / "trial.log").read_text(encoding="utf-8")
        assert log.count("error: ") == tries


def test_another_sizing_asks_for_another_directory(finished: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(StaleError, match="set changed"):
        work(tiny_study(tiny_checkpoint, "lora.r=4", **SMALL), finished)


def test_a_trial_trained_with_other_settings_is_not_taken_for_another(finished: Path, tiny_checkpoint: Path) -> None:
    factors = (*SMALL["factors"], {"name": "rank", "levels": ("lora.r=2",)})
    trials = finished / "trials"
    moved = (trials / "learning-rate=5e-3-seed0").rename(trials / "rank=2-seed0")
    try:
        with pytest.raises(StaleError, match="trained with other settings"):
            work(tiny_study(tiny_checkpoint, **(SMALL | {"factors": factors})), finished)
    finally:
        moved.rename(trials / "learning-rate=5e-3-seed0")


def test_a_trial_that_there_is_not(finished: Path) -> None:
    with pytest.raises(InputError, match="not a run"):
        trial_run(finished, "warmup=7-seed0")


def entries(run: Path) -> dict[str, object]:
    return dict(json.loads((run / "manifest.json").read_text(encoding="utf-8")))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_paper_s_study_killed_in_the_middle(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "paper"
    settings = [part for one in (f"model.name={tiny_checkpoint}", *TINY) for part in ("--set", one)]
    command = [sys.executable, "-m", "vademecum", "--quiet", "study", "paper-study", *settings, "--out", str(folder)]
    driver = subprocess.Popen([*command, "--at-once", "2"], env={**os.environ, "OMP_NUM_THREADS": "1"})
    while len(list(folder.glob("trials/*/report.json"))) < 4:
        assert driver.poll() is None
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    # The newest report may not have come into its manifest.
    done = [run for run in folder.glob("trials/*") if (run / "manifest.json").is_file() and "report" in entries(run)]
    assert len(done) >= 3
    before = {run: (run / "report.json").stat().st_mtime_ns for run in done}
    subprocess.run([*command, "--at-once", "2"], check=True)
    found = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    assert len(found["trials"]) == 15
    assert {row["status"] for row in found["trials"]} <= {"completed", "diverged"}
    assert len(found["claims"]) == 17
    assert all(row["reason"] for row in found["claims"])
    assert {run: (run / "report.json").stat().st_mtime_ns for run in done} == before  # not done again


@pytest.mark.slow
def test_trials_trained_together_come_to_what_they_come_to_alone(
    finished: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    setting = Setting(make_executor("local"), Listener(), at_once=2, share_base=True)
    run_study(tiny_study(tiny_checkpoint, **SMALL), tmp_path / "together", setting)
    assert not list((tmp_path / "together" / "work").iterdir())
    for trial in (finished / "trials").iterdir():
        alone, together = (
            [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
            for folder in (trial, tmp_path / "together" / "trials" / trial.name)
        )
        assert [row.get("loss") for row in together] == pytest.approx([row.get("loss") for row in alone], abs=1e-4)
        assert [row["examples"] for row in together] == [row["examples"] for row in alone]
    found = json.loads((tmp_path / "together" / "study.json").read_text(encoding="utf-8"))
    assert {row["status"] for row in found["trials"]} == {"completed"}
