"""Of all the groups around a process the least limit holds; what the kernel would give back is not used."""

import math
import sys
from pathlib import Path

import pytest

from vademecum import cgroups

GIB = 2**30


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that stands for the root of the file system."""
    monkeypatch.setattr(cgroups, "Path", lambda *parts: tmp_path.joinpath(*(str(part).lstrip("/") for part in parts)))
    return tmp_path


def write(root: Path, group: str, **files: str) -> None:
    folder = root / "sys/fs/cgroup" / group
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n", encoding="ascii")


def place(root: Path, line: str) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"{line}\n", encoding="ascii")


def test_without_groups_there_is_no_limit(system: Path) -> None:
    assert cgroups.memory_bytes() == (sys.maxsize, sys.maxsize)
    assert cgroups.cpu_quota() == math.inf
    write(system, "", memory__max="max", cpu__max="max 100000")
    assert cgroups.memory_bytes() == (sys.maxsize, sys.maxsize)
    assert cgroups.cpu_quota() == math.inf


def test_an_outer_group_may_allow_less_than_the_own_one(system: Path) -> None:
    place(system, "0::/slurm/job_7/step_0")
    write(system, "slurm/job_7/step_0", memory__max="max", memory__current=str(GIB), cpu__max="max 100000")
    write(system, "slurm/job_7", memory__max=str(8 * GIB), memory__current=str(3 * GIB), cpu__max="400000 100000")
    write(system, "slurm", memory__max=str(64 * GIB), memory__current=str(63 * GIB), cpu__max="3200000 100000")
    assert cgroups.memory_bytes() == (8 * GIB, GIB)  # the outermost has the most, and the least of it is left
    assert cgroups.cpu_quota() == 4


def test_a_group_of_which_only_the_root_can_be_seen(system: Path) -> None:
    place(system, "0::/../../docker/0123")  # a container with a view of the host's names and not of its folders
    write(system, "", memory__max=str(2 * GIB), memory__current="0", cpu__max="150000 100000")
    assert cgroups.memory_bytes() == (2 * GIB, 2 * GIB)
    assert cgroups.cpu_quota() == 1.5


def test_cached_files_that_nobody_reads_can_be_given_back(system: Path) -> None:
    stat = f"anon {GIB}\ninactive_file {2 * GIB}\nactive_file {GIB}"
    write(system, "", memory__max=str(8 * GIB), memory__current=str(4 * GIB), memory__stat=stat)
    assert cgroups.memory_bytes() == (8 * GIB, 6 * GIB)


def test_version_1_has_a_tree_for_each_resource(system: Path) -> None:
    place(system, "4:memory:/docker/0123\n3:cpu,cpuacct:/docker/0123")
    write(
        system, "memory", memory__limit_in_bytes=str(4 * GIB), memory__usage_in_bytes=str(3 * GIB),
        memory__stat=f"inactive_file 5\ntotal_inactive_file {GIB}",
    )  # fmt: skip
    write(system, "cpu", cpu__cfs_quota_us="250000", cpu__cfs_period_us="100000")
    assert cgroups.memory_bytes() == (4 * GIB, 2 * GIB)
    assert cgroups.cpu_quota() == 2.5
    write(system, "cpu", cpu__cfs_quota_us="-1")
    assert cgroups.cpu_quota() == math.inf
