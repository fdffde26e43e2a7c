"""Trials that train together on one frozen base: which can, and what is kept of a group until it has trained.

studies/NAME/work/together-DIGEST/
  trials.json   who trains together, and whether that has failed      checkpoints/   of all of them
"""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vademecum.config import RunConfig, load_config
from vademecum.files import digest_value
from vademecum.planning import Plan
from vademecum.planning.choice import HOST_SLOTS
from vademecum.runs import Run
from vademecum.stages import Road, is_begun_alone, run_road, train_runs_together
from vademecum.study.design import Trial
from vademecum.study.folder import StudyFolder
from vademecum.training import can_share

MOST_TOGETHER = 16
"""Trials on one frozen base: a joint checkpoint that is damaged costs all of them their steps since the one before."""
TRIALS = "trials.json"


@dataclass(frozen=True)
class Group:
    """Trials of a study that train together; its folder goes when they have."""

    study: Path
    names: tuple[str, ...]
    """In any order."""
    failed: bool = False
    """Whether a try ended without all of them trained; then each goes on alone."""

    @property
    def path(self) -> Path:
        """The group's folder."""
        return self.study / "work" / f"together-{digest_value(sorted(self.names))[:12]}"

    @property
    def checkpoints(self) -> Path:
        """Where those of all its trials lie."""
        return self.path / "checkpoints"

    @property
    def is_open(self) -> bool:
        """Whether it was begun and has not come to its end."""
        return (self.path / TRIALS).is_file()

    def begin(self) -> None:
        """Enter it, so that later sittings go on with just these trials, whatever others there are by then."""
        self._enter(failed=False)

    def fail(self) -> None:
        """Remember that it cannot be done, and give up what it has.

        Raises:
            RunError: another process is at work on it.
        """
        with Run.create(self.path).lock():
            shutil.rmtree(self.checkpoints, ignore_errors=True)
            self._enter(failed=True)

    def remove(self) -> None:
        """Its trials have trained, or go on alone."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _enter(self, *, failed: bool) -> None:
        Run.create(self.path).write_json(TRIALS, {"trials": list(self.names), "failed": failed})


def known_groups(study: Path) -> list[Group]:
    """Those that were begun and have not come to their end.

    Raises:
        RunError: a file of theirs is damaged.
    """
    rows = [Run(file.parent).read_json(TRIALS) for file in sorted((study / "work").glob(f"together-*/{TRIALS}"))]
    return [Group(study, tuple(row["trials"]), row["failed"]) for row in rows]


def take_up_groups(folder: StudyFolder, untrained: Sequence[Trial]) -> tuple[list[Group], list[Trial]]:
    """The groups of earlier sittings that go on, first in each a trial that is to train, and the trials that may form
    new ones.

    A trial that was begun alone goes on alone, and so does one of a group that has failed.
    """
    waiting = {trial.name for trial in untrained}
    free = {trial.name: trial for trial in untrained if not is_begun_alone(folder.trial(trial))}
    going = []
    for group in known_groups(folder.path):
        mine = [name for name in group.names if name in free]
        if mine and not group.failed:
            going.append(Group(folder.path, (*mine, *(name for name in group.names if name not in mine))))
        elif not (group.failed and waiting & set(group.names)):
            group.remove()
        for name in mine:
            del free[name]
    return going, list(free.values())


def sharing_pays(plan: Plan) -> bool:
    """Where a micro-batch costs less than the launching of its kernels: on an accelerator, with few tokens in it."""
    return plan.device != "cpu" and plan.micro_batch_tokens < HOST_SLOTS[plan.device]


def why_alone(trials: Sequence[Trial]) -> str:
    """Why none of these trials shares its base with another."""
    reasons = (can_share([trial.config.model], [trial.config.lora], [trial.config.train]) for trial in trials)
    return next(filter(None, reasons), "their base models or the shapes of their adapters differ")


def share_groups(trials: Sequence[Trial], lanes: int = 1) -> list[tuple[str, ...]]:
    """Names of trials that can train on one frozen base, in groups of like size: at least one for each of the `lanes`,
    where there are two trials for it, and at most MOST_TOGETHER trials in each. Trials alone are left out."""
    alike: dict[str, list[str]] = {}
    for trial in trials:
        config = trial.config
        if can_share([config.model], [config.lora], [config.train]) is None:
            alike.setdefault(f"{config.model!r} {config.lora!r}", []).append(trial.name)
    sets = [names for names in alike.values() if len(names) > 1]
    parts = [math.ceil(len(names) / MOST_TOGETHER) for names in sets]
    while sum(parts) < lanes:
        able = [number for number, names in enumerate(sets) if len(names) // (parts[number] + 1) > 1]
        if not able:
            break
        parts[max(able, key=lambda number: len(sets[number]) / parts[number])] += 1
    return [
        tuple(names[len(names) * part // count : len(names) * (part + 1) // count])
        for names, count in zip(sets, parts, strict=True)
        for part in range(count)
    ]


def train_trials(path: Path, names: Sequence[str], road: Callable[[Run, RunConfig, Run], Road]) -> None:
    """Plan several trials, and train them together on one frozen base, or go on with it.

    `road` is given a trial's run, its configuration and the shared run.

    Raises:
        ConfigError: they cannot share a base.
        VademecumError: any stage's own.
    """
    roads = [road(*trial_run(path, name)) for name in names]
    group = Group(path, tuple(names))
    group.begin()
    with Run.create(group.path).lock():
        for one in roads:
            run_road(one, until="plan")
        train_runs_together(roads, group.checkpoints)
        group.remove()


def trial_run(path: Path, name: str) -> tuple[Run, RunConfig, Run]:
    """A trial of a study or a search: its run, its configuration, and the run whose finished stages it takes over.

    Raises:
        InputError: there is no such trial.
    """
    run = Run.open(path / "trials" / name)
    return run, load_config(run.file("config.json")), Run.open(path / "shared")
