"""What an executor is given and what it must do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from vademecum.stopping import Stop


@dataclass(frozen=True)
class Task:
    """A trial as a command. Given twice, the command goes on where it was; a second one at the same time is refused."""

    name: str
    command: tuple[str, ...]
    log: Path
    """Its standard output and errors are added to this file."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """On top of this process's own."""
    threads: int = 1
    """CPU cores that it keeps busy."""
    memory_bytes: int = 0
    """Of the machine, that it is predicted to take."""
    gpu: bool = False
    """Whether it needs a GPU, which it then has to itself."""


Finished = Callable[[Task, int], None]
"""Told of each task that has ended, with its exit code; negative: the signal that ended it."""


class Executor(Protocol):
    """Runs tasks, each in a process of its own."""

    def run(self, tasks: Sequence[Task], stop: Stop, finished: Finished) -> None:
        """Run all of them, in this order where there is a choice; one that fails does not keep the others.

        Raises:
            StoppedError: `stop` was asked to; the tasks in flight were told to stop, and have ended.
            RunError: the executor itself cannot go on.
        """
