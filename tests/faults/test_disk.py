"""A full disk, a folder that cannot be written, a file that is gone: the error names it, nothing half-written is taken
for whole, and when the cause is gone the same command goes on to the same end."""

import dataclasses
import os
import shutil
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
