"""Files that are whole or absent, and digests that say what is in them."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 20
UNFINISHED = ".part"
"""Ends the names of files that are being written."""
LOCK = ".lock"
"""In a folder whose files one process at a time may write."""


def expanded(path: str | Path) -> Path:
    """A path with the home directory for `~`; one of a user who is not known here stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make an error of the disk say which file it was about; one that comes from writing does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file so that a reader, at any instant, finds the old content or the new, never a part.

    Raises:
        OSError: the disk is full or the folder cannot be written; the old file is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8") if isinstance(content, str) else content
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED)
    temporary = Path(name)
    try:
        with naming(path), os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def link_or_copy(source: Path, target: Path) -> None:
    """Make a file appear under a second name, whole: as a hard link, or as a copy where there is none between disks.

    Files are replaced here, never written into, so that a link stays as good as a copy.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}{UNFINISHED}")
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(source, temporary)
        except OSError:  # another disk, or one without links
            shutil.copy2(source, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(target.parent)


def remove_unfinished(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder and below.

    A folder below that has a lock of its own is left to whoever holds it next: its writer may be at work.
    """
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not Path(place, name, LOCK).exists()]
        for name in files:
            if name.startswith(".") and name.endswith(UNFINISHED):
                Path(place, name).unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401  any JSON value
    """Write a value as indented JSON, whole; NaN and infinity are refused, for JSON has neither."""
    write_whole(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def publish_folder(temporary: Path, final: Path) -> None:
    """Give a finished temporary folder its final name, replacing an older one; its files are synced first."""
    for file in sorted(temporary.rglob("*")):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
    if final.exists():
        shutil.rmtree(final)
    temporary.replace(final)
    sync_folder(final.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            sha.update(block)
    return sha.hexdigest()


def digest_path(path: Path) -> str:
    """SHA-256 of a file, or of a folder's file names and contents in sorted order."""
    if path.is_file():
        return digest_file(path)
    return digest_files(path, (entry for entry in path.rglob("*") if entry.is_file()))


def digest_files(folder: Path, files: Iterable[Path]) -> str:
    """SHA-256 of the names below a folder, and the contents, of some of its files, in sorted order."""
    sha = hashlib.sha256()
    for file in sorted(files):
        name = os.fsencode(file.relative_to(folder).as_posix())  # which need not be UTF-8
        sha.update(name + f"\0{digest_file(file)}\n".encode())
    return sha.hexdigest()


def digest_value(value: Any) -> str:  # noqa: ANN401  any JSON value
    """SHA-256 of a value's canonical JSON (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
