"""A task at work on this machine, in a session of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from vademecum.study.executors.tasks import Task

ATTENDANT = Path(__file__).with_name("attendant.py")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
POLL_SECONDS = 0.1
"""Between two looks at what has ended: tasks last minutes."""
PATIENCE_SECONDS = 900.0
"""A task that was asked to stop does so after the micro-batch or the answers in flight; after this it is killed."""


class TaskProcess:
    """A task at work. It ends when this process ends, even by SIGKILL; Ctrl-C on the terminal does not reach it."""

    def __init__(self, task: Task, *, gpu: str | None = None, folder: Path | None = None) -> None:
        """Start it in `folder`, by default the current one.

        Args:
            gpu: its CUDA_VISIBLE_DEVICES; empty: it sees no GPU; none: those that this process sees.

        Raises:
            OSError: its log cannot be written, or no process can be started.
        """
        self.task = task
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(task.threads)), **task.environment}
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        task.log.parent.mkdir(parents=True, exist_ok=True)
        with task.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  a study's own trial
                [sys.executable, "-I", str(ATTENDANT), *task.command],
                stdin=subprocess.PIPE,  # held open, never written to: the attendant watches it
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=environment,
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """The exit code, negative for a signal; none while it works."""
        return self._process.poll()

    def ask_to_stop(self) -> None:
        """Tell it to stop where nothing is lost."""
        self._process.send_signal(signal.SIGTERM)

    def end(self) -> int:
        """End it at once, with all that it has started, if it still works; its exit code."""
        if self.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()
        return code

    def wait(self, seconds: float) -> int | None:
        """Wait so long at most; the exit code if it has ended."""
        until = time.monotonic() + seconds
        while (code := self.poll()) is None and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
        return code
