"""Showing a run while it works: a bar on a terminal, a line now and then when piped."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from vademecum.stages import Silence

LINE_EVERY_SECONDS = 20.0
SLOWEST_SHOWN = 0.005
"""Things a second; slower ones, such as trials, are told by the time that is left."""


class Progress(Silence):
    """Shows stages as they begin, and how far the one at work has come."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task: TaskID | None = None
        self._stage = ""
        self._started = self._last_line = time.monotonic()
        self._first_done: float | None = None

    def __enter__(self) -> "Progress":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def begin(self, stage: str) -> None:
        """A stage starts to work."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task, self._stage, self._first_done = None, stage, None
        self._started = self._last_line = time.monotonic()
        self._console.print(f"{stage} …")

    def skip(self, stage: str) -> None:
        """A stage is complete already."""
        self._console.print(f"{stage}: complete already")

    def progress(self, done: float, total: float, unit: str) -> None:
        """The stage at work has done this much."""
        now = time.monotonic()
        if self._first_done is None:
            self._first_done, self._started = done, now
        elapsed = now - self._started
        rate = (done - self._first_done) / elapsed if elapsed > 0 else 0.0
        shown = f"{rate:.2f} {unit}/s" if rate >= SLOWEST_SHOWN else ""
        if self._console.is_terminal:
            if self._task is None:
                self._task = self._bars.add_task(self._stage, total=total, unit=unit, rate=shown)
            self._bars.update(self._task, completed=done, total=total, rate=shown)
        elif now - self._last_line >= LINE_EVERY_SECONDS or done >= total:
            self._last_line = now
            left = f"{(total - done) / rate / 60:.1f} min left" if rate and done < total else ""
            told = " ".join(filter(None, (f"{done:.0f} of {total:.0f} {unit}", shown)))
            self._console.print(f"  {self._stage}: {', '.join(filter(None, (told, left)))}", soft_wrap=True)

    def say(self, text: str) -> None:
        """Something that the user should know."""
        self._console.print(f"  {text}", soft_wrap=True)
