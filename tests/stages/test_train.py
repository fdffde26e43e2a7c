"""A training that gives no adapter worth scoring ends the run with a verdict on all that needs none."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.listener import Listener, go

from vademecum.config import BudgetConfig, RunConfig, load_config
from vademecum.errors import UntrainedError
from vademecum.hardware import Device
from vademecum.planning import AnswerRates, MemoryPrediction, Plan, Rates, Settings
from vademecum.runs import Run
from vademecum.stages import Road, render_again, run_road
from vademecum.stages.train import RunSink, _time_limit, cuda_limit, watched_bytes
from vademecum.training import Adaptation


def config(checkpoint: Path, *more: str) -> RunConfig:
    settings = [
        f"model.name={checkpoint}", "model.device=cpu", "model.dtype=float32", "budget.minutes=none",
        "train.max_steps=4", "train.max_length=512", "train.max_cut_share=1.0", "train.eval_pairs=4",
        "generate.max_new_tokens=8", "generate.test_pairs=12", "generate.validation_pairs=2",
        'generate.systems=["base", "copy", "tuned"]', "evaluate.resamples=100", *more,
    ]  # fmt: skip
    return load_config("demo", settings)


def walk(folder: Path, given: RunConfig, *force: str) -> tuple[Listener, UntrainedError]:
    """Walk a road that must end without a tuned system."""
    listener = Listener()
    with pytest.raises(UntrainedError) as caught:
        run_road(Road(Run.create(folder), given, listener), force=force)
    return listener, caught.value


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return found


def test_a_diverged_training_leaves_the_other_systems_their_scores(tiny_checkpoint: Path, tmp_path: Path) -> None:
    wild = config(tiny_checkpoint, "train.learning_rate=1e30")
    listener, error = walk(tmp_path, wild)
    assert listener.worked == [
        "prepare", "plan", "train", "decoding", "predict/base", "predict/copy", "score/base", "score/copy", "report",
    ]  # fmt: skip
    assert any(said.startswith("diverged: ") for said in listener.said)
    assert "training diverged after" in error.message
    assert "--force train" in error.hint
    report = read(tmp_path)
    assert report["training"]["status"] == "diverged"
    assert report["training"]["remark"] in error.message
    assert set(report["systems"]) == {"base", "copy"}
    assert {row["system"] for row in report["comparisons"]} == {"copy"}
    for page in ("report.md", "report.html"):
        assert "Training diverged after" in (tmp_path / page).read_text(encoding="utf-8")
    assert not (tmp_path / "adapter").exists()

    assert walk(tmp_path, wild)[0].worked == []  # a finished result of these inputs
    render_again(Run.open(tmp_path), wild, public=True)

    tame = config(tiny_checkpoint)
    assert go(tmp_path, tame, force=["train"]).worked[-3:] == ["predict/tuned", "score/tuned", "report"]
    assert set(read(tmp_path)["systems"]) == {"base", "copy", "tuned"}
    assert (tmp_path / "adapter" / "README.md").is_file()

    walk(tmp_path, wild, "train")
    assert set(read(tmp_path)["systems"]) == {"base", "copy"}
    for name in ("adapter", "predictions/tuned.jsonl", "scores/tuned.jsonl"):
        assert not (tmp_path / name).exists()
    assert not [name for name in Run.open(tmp_path).entries() if name.endswith("/tuned")]


def test_an_adapter_without_effect_is_not_scored_as_tuned(tiny_checkpoint: Path, tmp_path: Path) -> None:
    still = config(tiny_checkpoint, "train.learning_rate=1e-300", 'generate.systems=["copy", "tuned"]')
    _, error = walk(tmp_path, still)
    assert "training changed nothing: the adapter's updates are all zero" in error.message
    report = read(tmp_path)
    assert report["training"]["status"] == "unchanged"
    assert set(report["systems"]) == {"copy"}
    assert "Training changed nothing" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_run_of_the_tuned_system_alone_has_no_report(tiny_checkpoint: Path, tmp_path: Path) -> None:
    alone = config(tiny_checkpoint, "train.learning_rate=1e30", 'generate.systems=["tuned"]')
    listener, _ = walk(tmp_path, alone)
    assert listener.worked == ["prepare", "plan", "train", "decoding"]
    with pytest.raises(UntrainedError):
        render_again(Run.open(tmp_path), alone, public=False)


def plan(device: Device = "cpu") -> Plan:
    answers = AnswerRates(prompt_tokens_per_second=1, step_seconds=1, rows=1)
    return Plan(
        train_pairs=1,
        device=device, dtype="float32", dtype_reason="", base="", base_digest="", optimizer_steps=10, full_steps=10,
        ended_by="budget", warmup_steps=0, eval_steps=1, save_steps=1, micro_batch_tokens=1, real_tokens=1,
        settings=Settings(
            quantization="none", per_device_train_batch_size=1, gradient_accumulation_steps=1,
            gradient_checkpointing=False, compact=False,
        ),
        answer_rows=1, candidates=[], process_bytes=1, memory_limit_bytes=2_500_000_000, disk_bytes=1, measured=True,
        memory=MemoryPrediction(
            weights_bytes=1, adapter_bytes=1, activations_bytes=1, answering_weights_bytes=1, cache_bytes=1,
            reading_bytes=1,
        ),
        rates=Rates(
            train_tokens_per_second=1, evaluation_tokens_per_second=1, answers={"plain": answers}, peak_memory_bytes=1
        ),
        predicted_seconds={"prepare and plan": 30, "train": 400, "decoding": 20, "predict/base": 50},
    )  # fmt: skip


def test_training_may_take_what_the_rest_leaves_of_the_budget() -> None:
    assert _time_limit(BudgetConfig(minutes=10), plan(), preparing=5) == 600 - 30 - 20 - 50 - 5
    assert _time_limit(BudgetConfig(), plan(), preparing=5) is None


def test_memory_is_watched_on_a_cpu() -> None:
    assert watched_bytes(BudgetConfig(memory_gb=0.5), plan(), 1) == 500_000_000
    assert watched_bytes(BudgetConfig(memory_gb=0.5), plan("cuda"), 1) is None


def test_without_a_budget_training_may_take_what_is_free_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vademecum.planning.memory.machine_memory_bytes", lambda: (8 * 10**9, 10**9))
    monkeypatch.setattr("vademecum.planning.memory.process_memory_bytes", lambda: 10**9)
    assert watched_bytes(BudgetConfig(), plan(), 1) == 1_800_000_000  # whatever was free when it was planned


def test_a_gpu_is_kept_to_the_budget_less_its_context() -> None:
    beside = plan("cuda").model_copy(update={"process_bytes": 600_000_000})
    limit, process = beside.memory_limit_bytes, beside.process_bytes
    assert cuda_limit(BudgetConfig(memory_gb=2.5), limit, process) == 1_900_000_000
    assert cuda_limit(BudgetConfig(), limit, process) is None


def test_changes_of_course_and_the_clock_survive_the_sitting(tmp_path: Path) -> None:
    road = Road(Run.create(tmp_path), load_config("demo"), Listener())
    folder = tmp_path / "work" / "train"
    first = RunSink(road, folder, 10)
    first.checkpoints.mkdir(parents=True)
    assert first.adaptations() == []
    cut = Adaptation(step=4, change="steps_cut", cause="time_limit", before=10, after=7, measured=50, limit=40)
    first.adapt(cut)
    for step in (0, 1, 2):
        first.step({"step": step})
        first.timing({"step": step, "seconds": 1000.0 * step})
    assert first.done() == 2  # the row of the untrained model is no step
    first.truncate(1)

    second = RunSink(road, folder, 10)
    assert second.adaptations() == [cut]
    assert second.done() == 1
    assert 1000 <= second.seconds() < 2000
    for step, left in ((0, [0]), (-1, [])):
        second.truncate(step)
        assert [row["step"] for row in road.run.read_lines("training.jsonl")] == left
        assert second.done() == 0


def test_the_clock_of_a_joint_training_goes_on_where_its_checkpoints_are(tmp_path: Path) -> None:
    road = Road(Run.create(tmp_path), load_config("demo"), Listener())
    folder, joint = tmp_path / "work" / "train", tmp_path / "joint"
    RunSink(road, folder, 10, joint).timing({"step": 1, "seconds": 1000.0})
    assert RunSink(road, folder, 10, joint).seconds() < 1000  # another training's
    joint.mkdir()
    assert RunSink(road, folder, 10, joint).seconds() >= 1000
