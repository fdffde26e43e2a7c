"""Walking the road in tests, and an ear for what is said on the way."""

from collections.abc import Iterable
from pathlib import Path

from vademecum.config import RunConfig
from vademecum.runs import Run
from vademecum.stages import Road, run_road


class Listener:
    """Remembers which stages worked and what was said."""

    def __init__(self) -> None:
        self.worked: list[str] = []
        self.said: list[str] = []

    def begin(self, stage: str) -> None:
        self.worked.append(stage)

    def skip(self, stage: str) -> None:
        pass

    def progress(self, done: float, total: float, unit: str) -> None:
        assert 0 <= done <= total

    def say(self, text: str) -> None:
        self.said.append(text)


def go(folder: Path, config: RunConfig, *, until: str | None = None, force: Iterable[str] = ()) -> Listener:
    listener = Listener()
    run_road(Road(Run.create(folder), config, listener), until=until, force=force)
    return listener
