"""Where the trials of a study run: on this machine, or on a Ray cluster."""

from vademecum.errors import InputError
from vademecum.study.executors.local import LocalExecutor
from vademecum.study.executors.tasks import Executor, Task

__all__ = ["Executor", "LocalExecutor", "Task", "make_executor"]


def make_executor(name: str) -> Executor:
    """`local` (`shared-base` and `auto` too), `ray` (a cluster of this machine) or `ray:ADDRESS` (an existing one).

    Raises:
        InputError: there is no such executor.
    """
    kind, _, address = name.partition(":")
    if name in ("local", "shared-base", "auto"):
        return LocalExecutor()
    if kind == "ray":
        from vademecum.study.executors.ray_cluster import RayExecutor

        return RayExecutor(address or None)
    raise InputError(f"there is no executor {name!r}", hint="auto, local, shared-base, ray or ray:ADDRESS")
