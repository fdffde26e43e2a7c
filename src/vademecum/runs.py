"""The run directory: its files, its manifest and its lock. Nothing else reads or writes an artifact.

`manifest.json` has one entry per finished stage, written after the stage's files:

    {"train": {"inputs": {"pairs.jsonl": "…sha256", "config.train": "…"}, "outputs": {"training.json": "…sha256"},
               "seconds": 812.4, "peak_memory_bytes": 1893000000, "versions": {"torch": "2.13.0"}, "seed": 0,
               "device": "cpu", "dtype": "float32"}}
"""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from vademecum.config import RunConfig
from vademecum.errors import InputError, RunError
from vademecum.files import (
    LOCK,
    digest_path,
    digest_value,
    expanded,
    link_or_copy,
    naming,
    remove_unfinished,
    write_json,
    write_whole,
)
from vademecum.records import Record

RecordType = TypeVar("RecordType", bound=Record)
MANIFEST = "manifest.json"
MARK = "inputs.json"
"""In the folder of a stage's unfinished work: the digest of what it is made from."""


class Entry(Record):
    """What the manifest says of one finished stage."""

    inputs: dict[str, str]
    """File, `config.SECTION` or `model`/`corpus` → SHA-256."""
    outputs: dict[str, str]
    seconds: float
    """Wall time of the stage, all sittings together."""
    peak_memory_bytes: int
    versions: dict[str, str]
    seed: int
    device: str
    dtype: str


class Run:
    """One run directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, path: Path) -> "Run":
        """A directory that holds a run already.

        Raises:
            InputError: there is no run in it.
        """
        if not (path / "config.json").is_file():
            raise InputError(
                f"{path} is not a run: it has no config.json", hint="give the folder that `vade run` wrote"
            )
        return cls(path)

    @classmethod
    def create(cls, path: Path) -> "Run":
        """A directory that holds a run, or will."""
        path = expanded(path)  # a shell leaves the ~ of --out=~/runs alone
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"the run directory {path} cannot be made: {error}", hint="choose another with --out"
            ) from None
        return cls(path)

    @property
    def name(self) -> str:
        """The directory's own name."""
        return self.path.resolve().name

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory for this process; the kernel lets go when the process ends, however it ends.

        Raises:
            RunError: another process holds it, or the drive knows no locks.
        """
        file = self.path / LOCK
        with file.open("a+", encoding="utf-8") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise RunError(
                        f"{self.path} lies on a drive without locks ({error.strerror}), and another process could "
                        "write to it at the same time",
                        hint="choose a directory on another drive with --out",
                    ) from None
                handle.seek(0)
                raise RunError(
                    f"{self.path} is in use by {handle.read().strip() or 'another process'}",
                    hint="wait for it to end, or choose another directory with --out",
                ) from None
            handle.truncate(0)
            with naming(file):
                handle.write(f"process {os.getpid()} on {os.uname().nodename}")
                handle.flush()
            remove_unfinished(self.path)
            yield

    @property
    def size_bytes(self) -> int:
        """Of all files in it."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    # Single files

    def file(self, name: str) -> Path:
        """Where an artifact lies."""
        return self.path / name

    def write_config(self, config: RunConfig) -> None:
        """Write the resolved configuration.

        Raises:
            InputError: a config.json of something else lies there, such as a model's.
        """
        values = config.model_dump(mode="json")
        if self.file("config.json").exists() and not values.keys() <= set(self.read_json("config.json")):
            raise InputError(
                f"{self.path} holds a config.json that no run has written, such as a model's",
                hint="choose another directory with --out",
            )
        write_json(self.file("config.json"), values)

    def read_json(self, name: str) -> Any:  # noqa: ANN401  any JSON value
        """A JSON artifact.

        Raises:
            RunError: it is missing or damaged.
        """
        try:
            return json.loads(self.file(name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:  # not JSON, or not UTF-8
            raise self._damaged(name, str(error)) from None

    def write_json(self, name: str, value: Any) -> None:  # noqa: ANN401
        """Write a JSON artifact, whole."""
        write_json(self.file(name), value)

    def write_text(self, name: str, text: str) -> None:
        """Write a text artifact, whole."""
        write_whole(self.file(name), text)

    def read_record(self, name: str, kind: type[RecordType]) -> RecordType:
        """A JSON artifact that is one record."""
        try:
            return kind.model_validate(self.read_json(name))
        except ValidationError as error:
            raise self._damaged(name, str(error)) from None

    def read_rows(self, name: str, kind: type[RecordType]) -> list[RecordType]:
        """The records of a JSONL artifact, in the file's order.

        Raises:
            RunError: it is missing, or a line is not such a record.
        """
        rows = []
        try:
            with self.file(name).open(encoding="utf-8") as file:
                for number, line in enumerate(file, 1):
                    try:
                        rows.append(kind.model_validate_json(line))
                    except ValidationError as error:
                        raise self._damaged(f"{name}, line {number}", str(error)) from None
        except (OSError, UnicodeDecodeError) as error:
            raise self._damaged(name, str(error)) from None
        return rows

    def write_rows(self, name: str, rows: Iterable[Record]) -> None:
        """Write a JSONL artifact, whole."""
        write_whole(self.file(name), "".join(f"{row.model_dump_json()}\n" for row in rows))

    def read_lines(self, name: str) -> list[dict[str, Any]]:
        """The objects of a JSONL file that is still growing; a half-written last line is not there yet.

        Raises:
            RunError: it is missing or damaged.
        """
        try:
            lines = self.file(name).read_text(encoding="utf-8").splitlines(keepends=True)
            return [json.loads(line) for line in lines if line.endswith("\n")]
        except (OSError, ValueError) as error:  # not JSON, or not UTF-8
            raise self._damaged(name, str(error)) from None

    def append_line(self, name: str, value: dict[str, Any]) -> None:
        """Add one object to a growing JSONL file; afterwards it is on the disk."""
        path = self.file(name)
        with naming(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(value, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def write_lines(self, name: str, values: Sequence[dict[str, Any]]) -> None:
        """Write a JSONL file of plain objects, whole."""
        write_whole(self.file(name), "".join(json.dumps(value, allow_nan=False) + "\n" for value in values))

    def _damaged(self, name: str, found: str) -> RunError:
        hint = "put back a copy of it; or delete it and give the same command again, which does anew what made it"
        if name == MANIFEST:
            hint = "put back a copy of it, or choose another directory with --out: without it nothing counts as done"
        return RunError(f"{self.path / name} is missing or damaged: {found}", hint=hint)

    # The manifest

    def entries(self) -> dict[str, Entry]:
        """All finished stages, by name."""
        if not self.file(MANIFEST).is_file():
            return {}
        try:
            return {name: Entry.model_validate(entry) for name, entry in self.read_json(MANIFEST).items()}
        except ValidationError as error:
            raise self._damaged(MANIFEST, str(error)) from None

    def is_current(self, stage: str, inputs: dict[str, str]) -> bool:
        """Whether a stage was finished from just these inputs and its outputs are unharmed."""
        entry = self.entries().get(stage)
        return entry is not None and entry.inputs == inputs and self.outputs_are_whole(entry)

    def outputs_are_whole(self, entry: Entry) -> bool:
        """Whether the files of a finished stage are there, with the content that it wrote."""
        return all(self.file(name).exists() and self.digest(name) == digest for name, digest in entry.outputs.items())

    def complete(self, stage: str, entry: Entry) -> None:
        """Enter a stage as finished; the very last thing that a stage does."""
        entries = self.entries() | {stage: entry}
        write_json(self.file(MANIFEST), {name: one.model_dump() for name, one in entries.items()})
        self.discard(stage)

    def take_over(self, stage: str, other: "Run") -> None:
        """Make another run's finished stage this one's too: its files as links where the disk allows, and its entry."""
        entry = other.entries()[stage]
        for name in entry.outputs:
            link_or_copy(other.file(name), self.file(name))
        self.complete(stage, entry)

    def forget(self, stage: str) -> None:
        """Take back what a stage has done."""
        entries = self.entries()
        if entry := entries.pop(stage, None):
            write_json(self.file(MANIFEST), {name: one.model_dump() for name, one in entries.items()})
            for name in entry.outputs:
                self.file(name).unlink(missing_ok=True)
        self.discard(stage)

    def digest(self, name: str) -> str:
        """SHA-256 of an artifact, file or folder."""
        return digest_path(self.file(name))

    # Unfinished work

    def discard(self, stage: str) -> None:
        """Remove a stage's unfinished work; whatever of it survives a kill in between is not gone on from."""
        folder = self.path / "work" / stage
        (folder / MARK).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

    def workspace(self, stage: str, inputs: dict[str, str]) -> Path:
        """A folder for a stage's unfinished work. What an earlier sitting left from other inputs is removed."""
        folder = self.path / "work" / stage
        mark = folder / MARK
        if not (mark.is_file() and mark.read_text(encoding="utf-8").strip() == digest_value(inputs)):
            self.discard(stage)
            write_whole(mark, digest_value(inputs) + "\n")
        return folder
