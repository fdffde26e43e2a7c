"""Small programs that tasks run in the tests of the executors, and waiting for what they do."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from vademecum.study.executors.tasks import Task

DEADLINE_SECONDS = 600.0
"""Only a test that fails waits so long."""


class Ended:
    """Remembers which tasks ended, and how."""

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}

    def __call__(self, task: Task, code: int) -> None:
        assert task.name not in self.codes
        self.codes[task.name] = code


def python(folder: Path, name: str, program: str, *arguments: object, **given: Any) -> Task:
    """A task that runs a Python program, with its log in `folder`."""
    command = (sys.executable, "-c", program, *map(str, arguments))
    return Task(name=name, command=command, log=folder / "logs" / f"{name}.log", **given)


def log(task: Task) -> str:
    return task.log.read_text(encoding="utf-8")


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def wait_until_gone(pid: int) -> None:
    """A zombie that nobody has waited for yet is gone, too."""

    def is_gone() -> bool:
        try:
            return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True

    wait_for(is_gone)


def number_in(file: Path) -> int:
    """The number that a program writes into a file, once it is there."""
    wait_for(lambda: file.is_file() and file.read_text(encoding="ascii").endswith("\n"))
    return int(file.read_text(encoding="ascii"))


WRITE_PID = "import os, sys, time, pathlib; pathlib.Path(sys.argv[1]).write_text(f'{os.getpid()}\\n');"
SLEEP = "time.sleep(600)"
POLITE = f"import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); {WRITE_PID} {SLEEP}"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {WRITE_PID} {SLEEP}"
BEGIN_AND_END = """
import os, sys, time
file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
os.write(file, f"begin {sys.argv[2]}\\n".encode())
time.sleep(0.2)
os.write(file, f"end {sys.argv[2]}\\n".encode())
"""
MEET = """
import pathlib, sys, time
mine, other = map(pathlib.Path, sys.argv[1:])
mine.touch()
while not other.exists():
    time.sleep(0.02)
"""
