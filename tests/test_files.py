"""A file is whole or as it was before."""

import errno
import os
from pathlib import Path

import pytest

from vademecum.files import digest_path, link_or_copy, publish_folder, write_json, write_whole


def test_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.txt"
    write_whole(target, "old")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_whole(target, "new")
    assert target.read_text(encoding="utf-8") == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_published_folder_replaces_the_older_one_whole(tmp_path: Path) -> None:
    final = tmp_path / "adapter"
    final.mkdir()
    (final / "stale").write_text("x", encoding="utf-8")
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (fresh / "weights").write_text("y", encoding="utf-8")
    publish_folder(fresh, final)
    assert [file.name for file in final.iterdir()] == ["weights"]
    assert not fresh.exists()


def test_folder_digest_sees_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1", encoding="utf-8")
    first = digest_path(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    second = digest_path(tmp_path)
    (tmp_path / "b").write_text("2", encoding="utf-8")
    assert len({first, second, digest_path(tmp_path)}) == 3


def test_an_error_of_the_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.txt'"):
        write_whole(tmp_path / "a.txt", "new")


def test_who_reads_the_old_file_reads_it_to_its_end(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_whole(target, "old " * 10_000)
    with target.open(encoding="utf-8") as reader:
        assert reader.read(4) == "old "
        write_whole(target, "new")
        assert reader.read() == "old " * 9_999
    assert target.read_text(encoding="utf-8") == "new"


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut a file whose name came first would be there, and empty."""
    done: list[tuple[str, str]] = []
    sync, rename = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        sync(descriptor)
        place = Path(f"/proc/self/fd/{descriptor}").resolve()
        done.append(("synced", "folder" if place.is_dir() else place.read_text(encoding="utf-8")))

    def renamed(path: Path, target: Path) -> Path:
        done.append(("renamed", target.name))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    write_whole(tmp_path / "a.txt", "all of it")
    assert done == [("synced", "all of it"), ("renamed", "a.txt"), ("synced", "folder")]


def test_a_link_is_as_good_as_a_copy(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "folder" / "b"
    write_whole(source, "first")
    link_or_copy(source, target)
    link_or_copy(source, target)  # again, over itself
    assert target.samefile(source)
    write_whole(source, "second")
    assert target.read_text(encoding="utf-8") == "first"
    assert [file.name for file in target.parent.iterdir()] == ["b"]


def test_between_disks_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    write_whole(tmp_path / "a", "first")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text(encoding="utf-8") == "first"
    assert not (tmp_path / "b").samefile(tmp_path / "a")
