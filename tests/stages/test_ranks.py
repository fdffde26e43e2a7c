"""Several processes of a launcher train one adapter: the one that a single process trains."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from vademecum.errors import ConfigError
from vademecum.training import ALONE, Ranks, join_launcher
from vademecum.training.batching import Layout

SETTINGS = (
    "model.device=cpu", "model.dtype=float32", "budget.minutes=none", "train.max_steps=6", "train.save_steps=2",
    "train.max_length=512", "train.max_cut_share=1.0", "train.eval_pairs=4", "train.gradient_accumulation_steps=2",
    "train.per_device_train_batch_size=2", "generate.max_new_tokens=8", "generate.test_pairs=6",
    "generate.validation_pairs=2", "evaluate.resamples=100",
)  # fmt: skip
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "vademecum")
SHIPPED = files("vademecum") / "presets" / "accelerate" / "data-parallel.yaml"
ACCELERATE = (
    "-m", "accelerate.commands.launch", "--config_file", str(SHIPPED), "--num_processes", "2", "-m", "vademecum",
)  # fmt: skip
DEADLOCK_SECONDS = 280
ALONE_HERE = ("-m", "vademecum")


def start(launcher: tuple[str, ...], folder: Path, checkpoint: Path, *more: str) -> "subprocess.Popen[str]":
    settings = [part for one in (*SETTINGS, f"model.name={checkpoint}") for part in ("--set", one)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "VADE_CACHE": str(folder.parent / "cache"),
    }
    return subprocess.Popen(
        [sys.executable, *launcher, "run", "demo", *settings, "--out", str(folder), *more],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
    )  # fmt: skip


def finish(launcher: tuple[str, ...], folder: Path, checkpoint: Path, *more: str, code: int = 0) -> str:
    process = start(launcher, folder, checkpoint, *more)
    try:
        told, _ = process.communicate(timeout=DEADLOCK_SECONDS)
    finally:
        process.terminate()  # torchrun ends what it has started
    assert process.returncode == code, told
    return told


def wait_for_checkpoint(folder: Path, process: "subprocess.Popen[str]") -> int:
    """Until there is a whole one; the process id of rank 0."""
    seal = folder / "work" / "train" / "checkpoints" / "checkpoint-2" / "whole.json"
    while not seal.is_file():
        assert process.poll() is None
        time.sleep(0.01)
    return int((folder / ".lock").read_text(encoding="utf-8").split()[1])


def losses(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "training.jsonl").read_text(encoding="utf-8").splitlines()]


def adapter(folder: Path) -> dict[str, Any]:
    weights: dict[str, Any] = load_file(folder / "adapter" / "adapter_model.safetensors")
    return weights


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    folder = tmp_path_factory.mktemp("together") / "run"
    finish(TORCHRUN, folder, tiny_checkpoint, "--until", "train", "--set", "lora.lora_dropout=0")
    return folder


def test_two_processes_come_to_what_one_comes_to(together: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    one = tmp_path / "one"
    finish(ALONE_HERE, one, tiny_checkpoint, "--until", "train", "--set", "lora.lora_dropout=0")
    assert [row["step"] for row in losses(together)] == [row["step"] for row in losses(one)] == [0, 1, 2, 3, 4, 5, 6]
    for found, expected in zip(losses(together), losses(one), strict=True):
        rows, expected_rows = (row.pop("validation_rows", []) for row in (found, expected))
        assert found == pytest.approx(expected, rel=1e-5)
        assert [row["nats"] for row in rows] == pytest.approx([row["nats"] for row in expected_rows], rel=1e-5)
    begun, expected_weights = adapter(together), adapter(one)
    for name, weight in expected_weights.items():
        assert (begun[name] - weight).norm() <= 1e-4 * weight.norm(), name
    assert json.loads((together / "plan.json").read_text(encoding="utf-8"))["processes"] == 2


def test_a_base_in_parts_trains_as_a_whole_one_does(together: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Gradient checkpointing included: a layer that is computed again is put together again."""
    for name, checkpointing in (("plain", "false"), ("checkpointing", "true")):
        folder = tmp_path / name
        settings = ("train.dp_shard_size=2", f"train.gradient_checkpointing={checkpointing}", "lora.lora_dropout=0")
        finish(TORCHRUN, folder, tiny_checkpoint, "--until", "train", *(p for one in settings for p in ("--set", one)))
        for found, expected in zip(losses(folder), losses(together), strict=True):
            rows, expected_rows = (row.pop("validation_rows", []) for row in (found, expected))
            assert found == pytest.approx(expected, rel=1e-5)
            assert [row["nats"] for row in rows] == pytest.approx([row["nats"] for row in expected_rows], rel=1e-5)
        found_weights = adapter(folder)
        for part, weight in adapter(together).items():
            assert (found_weights[part] - weight).norm() <= 1e-4 * weight.norm(), part


def test_a_base_in_parts_needs_as_many_processes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    told = finish(ALONE_HERE, tmp_path / "run", tiny_checkpoint, "--set", "train.dp_shard_size=2", code=2)
    assert "keeps the base in the memory of 2 processes, and there is one" in told
    assert "torchrun --nproc-per-node 2" in told


def test_one_process_answers_with_what_two_have_trained(together: Path, tiny_checkpoint: Path) -> None:
    before = (together / "training.jsonl").read_bytes()
    told = finish(ALONE_HERE, together, tiny_checkpoint, "--set", "lora.lora_dropout=0")
    assert "train: complete already" in told
    assert (together / "training.jsonl").read_bytes() == before
    assert (together / "report.json").is_file()


def test_a_plan_for_others_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    finish(ALONE_HERE, tmp_path / "run", tiny_checkpoint, "--until", "plan")
    told = finish(TORCHRUN, tmp_path / "run", tiny_checkpoint, "--until", "train", code=1)
    assert "the plan is for 1 processes, and 2 were started" in told


def test_micro_batches_that_cannot_be_shared_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    told = finish(TORCHRUN, tmp_path / "run", tiny_checkpoint, "--set", "train.gradient_accumulation_steps=3", code=1)
    assert "2 processes cannot share the 6 examples of an optimizer step in micro-batches of 2" in told


@pytest.mark.slow
def test_accelerate_launches_the_same_training(together: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    finish(ACCELERATE, tmp_path / "run", tiny_checkpoint, "--until", "train", "--set", "lora.lora_dropout=0")
    assert json.loads((tmp_path / "run" / "plan.json").read_text(encoding="utf-8"))["processes"] == 2
    assert losses(tmp_path / "run") == losses(together)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("parts", [1, 2])
def test_killed_or_stopped_and_begun_again_two_processes_end_as_if_nothing_had_happened(
    tiny_checkpoint: Path, tmp_path: Path, parts: int
) -> None:
    """Dropout included: each process has its own random state, and every checkpoint holds all of them."""
    whole = tmp_path / "whole"
    settings = ("lora.lora_dropout=0.3", "train.max_steps=16", f"train.dp_shard_size={parts}")
    more = ("--until", "train", *(part for one in settings for part in ("--set", one)))
    finish(TORCHRUN, whole, tiny_checkpoint, *more)
    for name, number in (("killed", signal.SIGKILL), ("stopped", signal.SIGTERM)):
        folder = tmp_path / name
        process = start(TORCHRUN, folder, tiny_checkpoint, *more)
        os.kill(wait_for_checkpoint(folder, process), number)
        told, _ = process.communicate(timeout=DEADLOCK_SECONDS)  # torchrun ends the others
        assert process.returncode != 0
        assert not (folder / "adapter").exists()
        if name == "stopped":
            assert "stopped before the work was finished (SIGTERM)" in told
            newest = max(int(path.name[11:]) for path in (folder / "work/train/checkpoints").glob("checkpoint-*"))
            assert losses(folder)[-1]["step"] == newest < 16  # the step that was just finished is kept
        finish(TORCHRUN, folder, tiny_checkpoint, *more)
        assert losses(folder) == losses(whole)
        assert all((weight == adapter(folder)[key]).all() for key, weight in adapter(whole).items())


def test_without_a_launcher_there_is_no_other() -> None:
    environment = {"RANK": "0", "WORLD_SIZE": "1", "PATH": "/bin"}
    assert join_launcher(environment) == ALONE
    assert environment == {"PATH": "/bin"}


@pytest.mark.parametrize("way", ["FSDP", "DEEPSPEED"])
def test_other_ways_of_training_on_several_gpus_are_refused(way: str) -> None:
    with pytest.raises(ConfigError, match=way):
        join_launcher({"RANK": "0", "WORLD_SIZE": "2", f"ACCELERATE_USE_{way}": "true"})


@pytest.mark.parametrize("left", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "two"}, {"WORLD_SIZE": "2", "RANK": "1"}])
def test_leftovers_of_a_launcher_are_named(left: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="WORLD_SIZE is") as caught:
        join_launcher(left)
    assert "unset WORLD_SIZE" in caught.value.hint


def test_processes_share_the_cores_of_a_machine_and_have_a_gpu_each() -> None:
    two_machines = Ranks(0, 8, 0, 4)
    assert (two_machines.speedup("cpu"), two_machines.speedup("cuda"), ALONE.speedup("cpu")) == (2, 8, 1)
    with pytest.raises(ConfigError, match="has 0 CUDA devices"):
        two_machines.check("mps")
    two_machines.check("cpu")


def test_processes_share_every_step() -> None:
    layout = Layout([[0], [1], [2, 3], [4], [5], [6], [7], [8]], 4, None, [3] * 9, processes=2)
    shares = [layout.share(rank) for rank in range(2)]
    assert [share.accumulation for share in shares] == [2, 2]
    for number in range(layout.steps):
        parts = [rows for share in shares for rows in share.step(number)]
        assert sorted(parts) == sorted(layout.step(number))


def test_halved_micro_batches_can_still_be_shared() -> None:
    layout = Layout([[0, 1], [2, 3], [4, 5], [6, 7, 8]], 4, None, [3] * 9, processes=2)
    assert layout.halved().accumulation == 8
    uneven = Layout([[0, 1], [2, 3], [4], [5, 6]], 4, None, [3] * 7, processes=2)
    assert uneven.halved().accumulation == 6
