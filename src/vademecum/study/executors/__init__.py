"""Where the trials of a study run: on this machine, or on a Ray cluster."""

from vademecum.study.executors.tasks import Executor, Task

__all__ = ["Executor", "Task"]
