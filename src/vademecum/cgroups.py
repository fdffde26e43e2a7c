"""What the kernel's control groups leave to this process: a container is one, a batch job and a systemd unit too.

Version 2 has one tree, in which every group around the process can set a limit: the least one holds. Version 1 has a
tree per resource, of which the root is read: in a container that is its own group.
See https://docs.kernel.org/admin-guide/cgroup-v2.html
"""

import math
import sys
from pathlib import Path

ROOT = "/sys/fs/cgroup"
VERSION_2 = ("memory.max", "memory.current", "inactive_file")
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
"""The files of the limit and of what is used, and the field of memory.stat with what is cached and idle."""


def memory_bytes() -> tuple[int, int]:
    """The least limit, and the least that is left of any limit; `sys.maxsize` where there is none.

    Cached pages of files are counted as used. Those that were not read lately, the kernel gives to whoever needs them.
    """
    limit, left = sys.maxsize, sys.maxsize
    for group, (most, current, idle) in [
        *((group, VERSION_2) for group in _groups()),
        (Path(ROOT, "memory"), VERSION_1),
    ]:
        found = _read(group / most)
        if found.isdigit():
            used = int(_read(group / current) or 0) - _field(group / "memory.stat", idle)
            limit, left = min(limit, int(found)), min(left, max(0, int(found) - used))
    return limit, left


def cpu_quota() -> float:
    """The least number of cores that the time of any group is worth; infinite where there is no quota."""
    quotas = [_read(group / "cpu.max").split() for group in _groups()]
    quotas.append([_read(Path(ROOT, "cpu", f"cpu.cfs_{part}_us")) for part in ("quota", "period")])
    cores = [int(found[0]) / int(found[1]) for found in quotas if len(found) == 2 and found[0].isdigit()]
    return min(cores, default=math.inf)


def _groups() -> list[Path]:
    """The folders of the groups of version 2 that this process is in, its own first and the root last."""
    lines = _read(Path("/proc/self/cgroup")).splitlines()
    own = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
    parts = [part for part in own.split("/") if part not in ("", "..")]
    return [Path(ROOT, *parts[:depth]) for depth in range(len(parts), -1, -1)]


def _field(file: Path, name: str) -> int:
    return next((int(line.split()[1]) for line in _read(file).splitlines() if line.startswith(f"{name} ")), 0)


def _read(file: Path) -> str:
    """The text of a file of the kernel's; empty where there is none."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
