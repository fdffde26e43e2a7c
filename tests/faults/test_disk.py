"""A full disk, a folder that cannot be written, a file that is gone: the error names it, nothing half-written is taken
for whole, and when the cause is gone the same command goes on to the same end."""

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.harness import TINY, Command, differences
from tests.listener import Listener

from vademecum.config import load_config
from vademecum.errors import VademecumError
from vademecum.runs import Run
from vademecum.stages import Road, run_road


@pytest.mark.parametrize(
    ("done", "blocks", "named"),
    [
        (None, 32, "pairs.jsonl"),
        ("plan", 32, "checkpoint-2"),
        pytest.param("train", 12, "manifest.json", marks=pytest.mark.slow),
    ],
)
def test_a_full_disk(
    done: str | None, blocks: int, named: str, command: Command, reference: Path, tmp_path: Path
) -> None:
    """A limit on the size of files, in blocks of 512 bytes, stands for the disk."""
    if done:
        assert command.finish(tmp_path, "--until", done)[0] == 0
    before = set(Run(tmp_path).entries())
    full = dataclasses.replace(command, limits=("sh", "-c", f'ulimit -f {blocks}; exec "$@"', "sh"))
    code, told = full.finish(tmp_path)
    assert code == 1, told
    assert "Traceback" not in told
    error = told[told.index("error: ") :]
    assert "too large" in error or "cannot be written" in error
    assert str(tmp_path) in error
    assert named in error
    assert set(Run(tmp_path).entries()) == before
    assert command.finish(tmp_path)[0] == 0
    assert differences(tmp_path, reference) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own in memory, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "none", str(place)], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no program `mount`")
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


@pytest.mark.parametrize(
    ("done", "room_kib"),
    [
        (None, 100),
        pytest.param("prepare", 20, marks=pytest.mark.slow),
        ("plan", 60),
        pytest.param("train", 8, marks=pytest.mark.slow),
        pytest.param("predict/tuned", 8, marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_is_really_full(
    done: str | None, room_kib: int, command: Command, reference: Path, small_disk: Path
) -> None:
    """So much room is left when a stage is done; with all the room the same command goes on."""
    folder = small_disk / "run"
    if done:
        assert command.finish(folder, "--until", done)[0] == 0
    before = set(Run(folder).entries())
    taken = shutil.disk_usage(small_disk).used
    remount(small_disk, f"size={taken + room_kib * 1024}")
    code, told = command.finish(folder)
    assert code == 1, told
    assert "Traceback" not in told
    error = told[told.index("error: ") :]
    assert "No space left on device" in error or "cannot be written" in error
    assert str(folder) in error
    assert set(Run(folder).entries()) >= before
    remount(small_disk, "size=64m")
    code, told = command.finish(folder)
    assert code == 0, told
    assert differences(folder, reference) == []


def test_a_disk_that_can_only_be_read(command: Command, reference: Path, small_disk: Path) -> None:
    folder = small_disk / "run"
    assert command.finish(folder, "--until", "prepare")[0] == 0
    remount(small_disk, "ro")
    code, told = command.finish(folder)
    assert code == 1
    assert "Traceback" not in told
    assert f"error: [Errno 30] Read-only file system: '{folder}" in told
    remount(small_disk, "rw")
    assert command.finish(folder)[0] == 0
    assert differences(folder, reference) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_folder_that_cannot_be_written(command: Command, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    code, told = command.finish(tmp_path)
    assert code == 1
    assert f"error: [Errno 13] Permission denied: '{tmp_path}" in told
    tmp_path.chmod(0o700)
    assert command.finish(tmp_path, "--until", "prepare")[0] == 0


@pytest.mark.parametrize(
    ("stage", "gone"),
    [
        pytest.param("train", "pairs.jsonl", marks=pytest.mark.slow),
        ("predict/base", "decoding.json"),
        ("predict/tuned", "adapter/adapter_model.safetensors"),
        pytest.param("score/base", "predictions/base.jsonl", marks=pytest.mark.slow),
        ("report", "training.jsonl"),
        ("report", "scores/tuned.jsonl"),
    ],
)
def test_a_file_removed_midway(stage: str, gone: str, command: Command, reference: Path, tmp_path: Path) -> None:
    class Remover(Listener):
        def begin(self, stage_begun: str) -> None:
            super().begin(stage_begun)
            if stage_begun == stage:
                (tmp_path / "run" / gone).unlink()

    run = Run(Path(shutil.copytree(reference, tmp_path / "run")))
    entries = run.read_json("manifest.json")
    later = list(entries)[list(entries).index(stage) :]
    run.write_json("manifest.json", {name: entry for name, entry in entries.items() if name not in later})
    config = load_config("demo", [*TINY, *(one for one in command.settings if one.startswith("model.name"))])
    with pytest.raises(VademecumError, match=Path(gone).name):
        run_road(Road(run, config, Remover()))
    run_road(Road(run, config, Listener()))
    assert differences(run.path, reference) == []
