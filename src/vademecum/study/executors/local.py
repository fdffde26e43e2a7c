"""Trials on this machine: as many at once as its cores, memory and GPUs allow."""

import time
from collections.abc import Callable, Sequence

from vademecum.errors import RunError
from vademecum.stopping import Stop
from vademecum.study.executors.processes import PATIENCE_SECONDS, POLL_SECONDS, TaskProcess
from vademecum.study.executors.room import Room
from vademecum.study.executors.tasks import Finished, Task


class LocalExecutor:
    """Runs tasks on this machine, each in a process and a session of its own.

    Of the tasks that fit beside those at work, the first is started. What is free is looked up when `run` begins; the
    tasks' own `memory_bytes` say the rest. A task sees the GPU that it was given and no other. When this process
    ends, even by SIGKILL, its tasks are ended at once; given again, they go on.
    """

    def __init__(self, room: Room | None = None, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Run in `room`, by default all of this machine; a task that is asked to stop may take `patience_seconds`."""
        self._room = room
        self._patience_seconds = patience_seconds

    def run(self, tasks: Sequence[Task], stop: Stop, finished: Finished) -> None:
        """Run all tasks.

        When it stops, `finished` is told of those in flight too: 143 (128 + SIGTERM) from a `vade run` that stopped
        cleanly, -15 from one that had not yet begun to listen, -9 where patience ended.

        Raises:
            StoppedError: `stop` was asked to; the tasks in flight have ended.
            RunError: a task needs a GPU and there is none, or a process cannot be started.
        """
        room = self._room or Room.of_this_machine()
        for task in tasks:
            room.check(task)
        waiting, working = list(tasks), list[TaskProcess]()

        def end(process: TaskProcess) -> None:
            code = process.end()
            working.remove(process)
            room.leave(process.task)
            finished(process.task, code)

        try:
            while waiting or working:
                if stop.asked:
                    self._stop(working, end)
                    stop.check()
                waiting = [task for task in waiting if not _start(task, room, working)]
                time.sleep(POLL_SECONDS)
                for process in [process for process in working if process.poll() is not None]:
                    end(process)
        finally:
            for process in working:
                process.end()

    def _stop(self, working: Sequence[TaskProcess], end: Callable[[TaskProcess], None]) -> None:
        """Ask all to stop, then wait for each; their patience is one and the same."""
        for process in working:
            process.ask_to_stop()
        until = time.monotonic() + self._patience_seconds
        for process in list(working):
            process.wait(until - time.monotonic())
            end(process)


def _start(task: Task, room: Room, working: list[TaskProcess]) -> bool:
    gpu = room.enter(task)
    if gpu is None:
        return False
    try:
        working.append(TaskProcess(task, gpu=gpu))
    except OSError as error:
        raise RunError(
            f"{task.name} cannot be started: {error}",
            hint="look whether the disk has room and the folder can be written, then give the same command again",
        ) from error
    return True
