"""What a stage is, when it is out of date, and in which order stages run."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from vademecum.config import RunConfig
from vademecum.errors import ConfigError, StaleError
from vademecum.files import digest_value, write_json
from vademecum.hardware import PeakMemory, release_memory
from vademecum.runs import Entry, Run
from vademecum.stages.measuring import library_versions
from vademecum.stopping import Stop
from vademecum.training import ALONE, Ranks

CLOCK_SECONDS = 5.0
"""So much of a stage's time is lost at most when it is killed, and what it does between two words of progress."""
SECONDS = "seconds.json"
"""In the folder of a stage's unfinished work: what it took so far."""


class Observer(Protocol):
    """Who watches a run: the command line's progress display, or a test."""

    def begin(self, stage: str) -> None:
        """A stage starts to work."""

    def skip(self, stage: str) -> None:
        """A stage is complete already."""

    def progress(self, done: float, total: float, unit: str) -> None:
        """The stage at work has done this much."""

    def say(self, text: str) -> None:
        """Something that the user should know."""


class Silence:
    """An observer that shows nothing."""

    def __enter__(self) -> "Silence":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def begin(self, stage: str) -> None:
        """Nothing to show."""

    def skip(self, stage: str) -> None:
        """Nothing to show."""

    def progress(self, done: float, total: float, unit: str) -> None:
        """Nothing to show."""

    def say(self, text: str) -> None:
        """Nothing to show."""


@dataclass(frozen=True)
class Road:
    """What every stage is given: the run directory, its configuration, and who watches."""

    run: Run
    config: RunConfig
    observer: Observer
    offline: bool = False
    stop: Stop = field(default_factory=Stop)
    """Asked between stages, and within those that take long."""
    reuse: Run | None = None
    """A run whose finished stages are taken over where they were made from the same inputs."""
    ranks: Ranks = ALONE
    """The processes that train together."""


@dataclass(frozen=True)
class Stage:
    """One step of the road. What it names here decides whether it is done again."""

    name: str
    settings: tuple[str, ...]
    """Dotted names of the sections or settings that it reads."""
    reads: tuple[str, ...]
    """Artifacts of earlier stages."""
    writes: tuple[str, ...]
    work: Callable[[Road, Path], None]
    """Does the work; the path is a folder for what is unfinished."""
    outside: Callable[[Road], dict[str, str]] | None = None
    """Digests of what it reads from outside the run directory."""
    precious: bool = False
    """Took so long to make that it is never overwritten unasked."""
    may_write: tuple[str, ...] = ()
    """Artifacts that it writes only where its work comes to something."""
    wanted: Callable[[Road], bool] = lambda _: True
    """Asked when its turn comes: whether, after all that came before, there is anything to do."""

    def inputs(self, road: Road) -> dict[str, str]:
        """Digest of everything that the stage reads."""
        tree = road.config.model_dump(mode="json")
        digests = {f"config.{name}": digest_value(_lookup(tree, name)) for name in self.settings}
        digests |= {name: road.run.digest(name) for name in self.reads}
        return digests | (self.outside(road) if self.outside else {})


def _lookup(tree: dict[str, Any], dotted: str) -> Any:  # noqa: ANN401  any JSON value
    node: Any = tree
    for key in dotted.split("."):
        node = node[key]
    return node


def walk(road: Road, stages: Sequence[Stage], *, until: str | None = None, force: Iterable[str] = ()) -> None:
    """Run every stage that is missing or out of date, in order. What is not wanted is forgotten where it was done once.

    Args:
        until: the last stage to run; a name without its system (`predict`) means all of that name.
        force: stages that may be made anew, with all that follows from them.

    Raises:
        ConfigError: `until` or `force` names no stage of this run.
        StaleError: finished training or predictions would have to be overwritten and `force` does not name them.
        StoppedError: `road.stop` was asked to.
    """
    forced = {stage.name for name in force for stage in _named(stages, name)}
    allowed = {stage.name for stage in stages if forced & {upper.name for upper in _upstream(stages, stage)}}
    last = _named(stages, until)[-1].name if until else stages[-1].name
    with road.run.lock():
        for stage in stages:
            if stage.wanted(road):
                _keep_current(road, stages, stage, forced, allowed)
            else:
                road.run.forget(stage.name)
            if stage.name == last:
                return


def _keep_current(road: Road, stages: Sequence[Stage], stage: Stage, forced: set[str], allowed: set[str]) -> None:
    inputs = stage.inputs(road)
    if stage.name not in forced and road.run.is_current(stage.name, inputs):
        road.run.discard(stage.name)  # what a kill just before the end has left
        road.observer.skip(stage.name)
        return
    _protect(road, stages, stage, inputs, allowed)
    road.stop.check()
    if road.reuse and stage.name not in forced and road.reuse.is_current(stage.name, inputs):
        road.run.write_config(road.config)
        road.run.take_over(stage.name, road.reuse)
        road.observer.skip(stage.name)
        return
    _perform(road, stage, inputs)


def _perform(road: Road, stage: Stage, inputs: dict[str, str]) -> None:
    road.observer.begin(stage.name)
    road.run.write_config(road.config)
    folder = road.run.workspace(stage.name, inputs)
    release_memory()  # what the stage before has left would count as this one's
    clock = _Clock(folder / SECONDS, road.observer)
    try:
        with PeakMemory() as memory:
            stage.work(replace(road, observer=clock), folder)
    except BaseException:
        clock.keep()
        raise
    finish(road, stage, inputs, clock.seconds(), memory.peak_bytes)


class _Clock:
    """Counts a stage's seconds over all sittings. It watches the stage, and passes on what it sees: as the stage gets
    on, they go to disk."""

    def __init__(self, file: Path, observer: Observer) -> None:
        self._file, self._observer = file, observer
        earlier = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else 0.0
        self._began = time.monotonic() - earlier
        self._kept = earlier

    def seconds(self) -> float:
        """So far."""
        return time.monotonic() - self._began

    def keep(self) -> None:
        """Put them on disk."""
        self._kept = self.seconds()
        write_json(self._file, self._kept)

    def begin(self, stage: str) -> None:
        """Pass it on."""
        self._observer.begin(stage)

    def skip(self, stage: str) -> None:
        """Pass it on."""
        self._observer.skip(stage)

    def progress(self, done: float, total: float, unit: str) -> None:
        """Pass it on, and look at the clock."""
        self._observer.progress(done, total, unit)
        if self.seconds() - self._kept >= CLOCK_SECONDS:
            self.keep()

    def say(self, text: str) -> None:
        """Pass it on."""
        self._observer.say(text)


def seconds_spent(run: Run, shared: Run | None = None) -> float:
    """Wall time of a run's stages, all sittings together, with those that are not finished; what it took over from
    `shared` is not its own."""
    taken = shared.entries() if shared else {}
    own = [entry.seconds for name, entry in run.entries().items() if entry != taken.get(name)]
    unfinished = [float(file.read_text(encoding="utf-8")) for file in run.file("work").rglob(SECONDS)]
    return sum(own) + sum(unfinished)


def finish(road: Road, stage: Stage, inputs: dict[str, str], seconds: float, peak_bytes: int) -> None:
    """Enter a stage as finished from `inputs`."""
    device, dtype = _where(road.run)
    entry = Entry(
        inputs=inputs,
        outputs={
            name: road.run.digest(name)
            for name in (*stage.writes, *stage.may_write)
            if name in stage.writes or road.run.file(name).exists()
        },
        seconds=round(seconds, 3),
        peak_memory_bytes=peak_bytes,
        versions=library_versions(),
        seed=road.config.seed,
        device=device,
        dtype=dtype,
    )
    road.run.complete(stage.name, entry)


def _where(run: Run) -> tuple[str, str]:
    if not run.file("plan.json").is_file():
        return "cpu", ""
    plan = run.read_json("plan.json")
    return str(plan["device"]), str(plan["dtype"])


def _protect(road: Road, stages: Sequence[Stage], stage: Stage, inputs: dict[str, str], allowed: set[str]) -> None:
    entries = road.run.entries()
    endangered = [
        other.name
        for other in stages
        if other.precious
        and other.name not in allowed
        and other.name in entries
        and stage.name in {upper.name for upper in _upstream(stages, other)}
        and road.run.outputs_are_whole(entries[other.name])
    ]
    if stage.name not in entries or not endangered:
        return
    before = entries[stage.name].inputs
    changed = sorted(name for name in before.keys() | inputs.keys() if before.get(name) != inputs.get(name))
    if not changed:  # its own files were lost or harmed: made anew from the same inputs they come out the same
        return
    raise StaleError(
        f"{', '.join(changed)} changed since {stage.name} was finished, "
        f"and {', '.join(endangered)} would be overwritten",
        hint=f"give --force {endangered[0].partition('/')[0]} to make it anew, or --out another directory to keep both",
    )


def _upstream(stages: Sequence[Stage], stage: Stage) -> list[Stage]:
    """The stage itself and all that it depends on."""
    needed, found = set(stage.reads), [stage]
    for other in reversed(stages[: stages.index(stage)]):
        if needed & {*other.writes, *other.may_write}:
            found.append(other)
            needed |= set(other.reads)
    return found


def _named(stages: Sequence[Stage], name: str) -> list[Stage]:
    found = [stage for stage in stages if name in (stage.name, stage.name.partition("/")[0])]
    if not found:
        names = ", ".join(dict.fromkeys(stage.name.partition("/")[0] for stage in stages))
        raise ConfigError(f"this run has no stage {name!r}", hint=f"its stages are {names}")
    return found
