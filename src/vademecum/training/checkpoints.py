"""The Trainer's checkpoints: sealed once they are whole, so that training never goes on from half of one."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vademecum.errors import RunError
from vademecum.files import digest_file, write_json

SEAL = "whole.json"
"""In each checkpoint: file → SHA-256; written last."""


@contextmanager
def sealed(checkpoint: Path) -> Iterator[None]:
    """Seal what is written in the `with` block.

    Raises:
        RunError: it cannot be written.
    """
    from safetensors import SafetensorError

    try:
        yield
        seal(checkpoint)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have their own for a disk
        raise RunError(
            f"{checkpoint} cannot be written: {error}",
            hint="look whether the disk has room, then give the same command again to go on",
        ) from error


def seal(checkpoint: Path) -> None:
    """Enter a checkpoint as whole: its files are on the disk, and their digests beside them."""
    digests = {}
    for file in sorted(checkpoint.iterdir()):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
        digests[file.name] = digest_file(file)
    write_json(checkpoint / SEAL, digests)


def is_whole(checkpoint: Path) -> bool:
    """Whether every file of a checkpoint is as it was sealed."""
    try:
        digests = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
        return all(digest_file(checkpoint / name) == digest for name, digest in digests.items())
    except (OSError, ValueError):  # a file is missing, or the seal is not JSON
        return False


def step_of(checkpoint: Path) -> int:
    """The number of finished steps in a checkpoint."""
    return int(checkpoint.name.rpartition("-")[2])


def newest_checkpoint(folder: Path, done: int, say: Callable[[str], None]) -> Path | None:
    """The whole checkpoint of the highest step in `folder`, of those that `done` rows of the log reach up to.

    Others after it are removed with a word to `say`, for they would count among those that are kept.
    """
    return newest_reached(folder, lambda checkpoint: step_of(checkpoint) <= done, say)


def newest_reached(folder: Path, reached: Callable[[Path], bool], say: Callable[[str], None]) -> Path | None:
    """The whole checkpoint of the highest step in `folder` of which `reached` says that the logs go as far.

    Others after it are removed with a word to `say`.
    """
    passed: list[str] = []
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True):
        whole = is_whole(checkpoint)
        if whole and reached(checkpoint):
            if passed:
                say(f"{', '.join(passed)} cannot be gone on from: going back to {checkpoint.name}")
            return checkpoint
        passed.append(f"{checkpoint.name} ({'rows lost' if whole else 'incomplete or damaged'})")
        shutil.rmtree(checkpoint)
    if passed:
        say(f"{', '.join(passed)} cannot be gone on from: training starts anew")
    return None
