"""Trials on a Ray cluster: one that runs already, or one that is started here and ends with this process."""

import logging
import math
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from vademecum.errors import InputError, RunError
from vademecum.hardware import usable_cores
from vademecum.stopping import Stop
from vademecum.study.executors.processes import PATIENCE_SECONDS, TaskProcess
from vademecum.study.executors.tasks import Finished, Task

RETRIES = 3
"""How often a task is run again whose worker, or node, was lost."""
LOOK_SECONDS = 0.5
"""Between two looks at whether to stop."""
STORE_BYTES = 80 * 1024 * 1024
"""Ray's least for a node's object store; only exit codes go through it."""
STOPPED = 128 + signal.SIGTERM
LOST = -int(signal.SIGKILL)


class RayExecutor:
    """Runs tasks on a Ray cluster, each as a Ray task with its demands of cores, memory and GPUs.

    Every node must have this package and see the same folders under the same names: a task's log and run directory are
    on shared storage. A task whose worker is lost is run again, on whatever node has room, and goes on where it was.
    When this process ends, even by SIGKILL, Ray ends its workers, and a worker's end is its task's.
    """

    def __init__(self, address: str | None = None, cores: int | None = None) -> None:
        """Use the cluster at `address` (`auto`: the one that this machine belongs to), or at RAY_ADDRESS; without
        either, a local one with `cores`, by default all of this machine.

        Raises:
            InputError: Ray is not installed.
        """
        try:
            import ray
        except ImportError:
            raise InputError(
                "Ray is not installed", hint="pip install '.[ray]' in the checkout, here and on every node"
            ) from None
        self._ray: Any = ray
        self._address = address or os.environ.get("RAY_ADDRESS") or "local"
        self._cores = cores

    def run(self, tasks: Sequence[Task], stop: Stop, finished: Finished) -> None:
        """Run all tasks.

        `finished` is told 143 (128 + SIGTERM) of a task that was at work when it was to stop, and -9 of one whose
        worker was lost again and again.

        Raises:
            InputError: the cluster cannot be reached.
            StoppedError: `stop` was asked to; the tasks in flight have ended.
            RunError: a task needs a GPU and no node has one, a node does not see the folders, or the cluster is lost.
        """
        with self._connected() as ray:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            remote = ray.remote(max_retries=RETRIES)(attend)
            demands = [(task, demand(task, nodes)) for task in tasks]
            at_work = {
                remote.options(name=task.name, **needs).remote(within(task, needs), Path.cwd()): task
                for task, needs in demands
            }
            cancelled = False
            while at_work:
                if stop.asked and not cancelled:
                    cancelled = True
                    for reference in at_work:
                        ray.cancel(reference)  # one that waits is dropped, one at work is interrupted
                for reference in ray.wait(list(at_work), timeout=LOOK_SECONDS)[0]:
                    task = at_work.pop(reference)
                    code = self._exit_code(task, reference)
                    if code is not None:
                        finished(task, code)
            if cancelled:
                stop.check()

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        ray = self._ray
        # Nothing is sent anywhere unasked; which GPUs a task sees is said for each.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        own: dict[str, Any] = {}
        if self._address == "local":
            cores = self._cores or usable_cores()
            own = {"num_cpus": cores, "include_dashboard": False, "object_store_memory": STORE_BYTES}
        listening = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=self._address, log_to_driver=False, logging_level=logging.ERROR, **own)
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(
                f"the Ray cluster at {self._address!r} cannot be used: {error}",
                hint="see `ray status`; all nodes need the same versions of Python and Ray",
            ) from error
        try:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, listening)  # Ray has put its own there, which exits
            yield ray
        except (ray.exceptions.RaySystemError, ConnectionError) as error:
            raise RunError(
                f"the Ray cluster was lost: {error}",
                hint="see `ray status`, then give the same command again; what is done is kept",
            ) from error
        finally:
            ray.shutdown()

    def _exit_code(self, task: Task, reference: object) -> int | None:
        """The task's exit code; none where it was cancelled before it began."""
        errors = self._ray.exceptions
        try:
            return int(self._ray.get(reference))
        except errors.TaskCancelledError as error:
            # Raised within the task where it was at work, by the scheduler where it was not.
            return STOPPED if isinstance(error, errors.RayTaskError) else None
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError):
            return LOST
        except OSError as error:
            raise RunError(
                f"{task.name} cannot be started on the cluster: {error}",
                hint=f"all nodes must see {Path.cwd()} and {task.log.parent} under these names, and may write there",
            ) from error


def demand(task: Task, nodes: Sequence[dict[str, float]]) -> dict[str, float]:
    """A task's demands in Ray's words. No more cores and memory than the largest node has: there it is alone.

    Raises:
        RunError: it needs a GPU and no node has one.
    """
    able = [node for node in nodes if node.get("GPU", 0) >= task.gpu]
    if not able:
        raise RunError(
            f"{task.name} needs a GPU, and no node of the Ray cluster has one",
            hint="see `ray status`; add such a node, or set model.device to 'cpu'",
        )
    cores = min(task.threads, max(node.get("CPU", 0) for node in able))
    most = max(node.get("memory", 0) for node in able if node.get("CPU", 0) >= cores)
    return {"num_cpus": cores, "num_gpus": int(task.gpu), "memory": min(task.memory_bytes, int(most))}


def within(task: Task, needs: dict[str, float]) -> Task:
    """The task with as many threads as it is given cores: the study's own machine may have more than a node."""
    return replace(task, threads=max(1, int(needs["num_cpus"])))


def attend(task: Task, folder: Path) -> int:
    """Run a task in `folder` on the node that Ray chose; its exit code. Runs in a Ray worker."""
    process = TaskProcess(replace(task, log=folder / task.log), gpu=None if task.gpu else "", folder=folder)
    try:
        process.wait(math.inf)
    except KeyboardInterrupt:  # ray.cancel's
        process.ask_to_stop()
        process.wait(PATIENCE_SECONDS)
    finally:
        code = process.end()
    return code
