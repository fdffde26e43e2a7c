"""Where the trials of a study run: on this machine, or on a Ray cluster."""

from vademecum.errors import InputError
from vademecum.study.executors.local import LocalExecutor
from vademecum.study.executors.tasks import Executor, Task

__all__ = ["Executor", "LocalExecutor", "Task", "make_executor"]


def make_executor(name: str) -> Executor:
    """`local`, `ray` (a cluster of this machine alone) or `ray:ADDRESS` (a cluster that runs already).

    Raises:
        InputError: there is no such executor.
    """
    kind, _, address = name.partition(":")
    if name == "local":
        return LocalExecutor()
    if kind == "ray":
        from vademecum.study.executors.ray_cluster import RayExecutor

        return RayExecutor(address or None)
    raise InputError(f"there is no executor {name!r}", hint="local, ray or ray:ADDRESS")
