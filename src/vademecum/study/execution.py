"""A study from its declaration to its verdicts: size it, make what is shared, run the trials, judge the claims."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from vademecum.config import anchored
from vademecum.errors import RunError, StoppedError
from vademecum.hardware import gpu_free_bytes, usable_cores
from vademecum.planning import Plan
from vademecum.stages import Observer, Road, forecast_run, run_shared
from vademecum.stopping import Stop
from vademecum.study.analysis import StudyAnalysis
from vademecum.study.declaration import StudyConfig
from vademecum.study.design import Design, Trial, lay_out_design
from vademecum.study.executors import Executor, Task
from vademecum.study.folder import DECLARATION, FIXED, StudyFolder
from vademecum.study.kept import belonging
from vademecum.study.sharing import Group, share_groups, sharing_pays, take_up_groups, why_alone
from vademecum.study.sizing import Sizing, size_study
from vademecum.study.verdict import judge

MOST_AT_ONCE = 2
"""Side by side they went through 1.25 times as many tokens as one after another (docs/experiments.md); more were not
measured."""


@dataclass(frozen=True)
class Setting:
    """How a study is worked on; none of it changes a result."""

    executor: Executor
    observer: Observer
    offline: bool = False
    stop: Stop = field(default_factory=Stop)
    at_once: int | None = 1
    """Trials that share the cores of a machine; an accelerator is never shared. None: as many as `fitting_at_once`."""
    share_base: bool | None = False
    """Whether trials that can are trained together on one frozen base. None: where the plan says that it pays."""


def run_study(study: StudyConfig, path: Path, setting: Setting) -> StudyAnalysis:
    """Run every trial that is not finished, and judge; the same call goes on where it was stopped.

    Raises:
        ConfigError: the declaration cannot be carried out, or does not fit the budget; says what would.
        StaleError: the study was sized by another declaration, or results of other trials were brought along.
        StoppedError: `setting.stop` was asked to.
        RunError: not one trial came to an end.
    """
    folder = StudyFolder(path)
    with folder.files.lock():
        design, sizing, trials = prepare_study(study, folder, setting)
        if folder.ended_elsewhere:
            setting.observer.say(f"{len(folder.ended_elsewhere)} of the trials were ended elsewhere, and count")
        pairs = "all" if sizing.train_pairs is None else f"{sizing.train_pairs:,}"
        setting.observer.say(
            f"{len(trials)} trials on {pairs} train pairs each: {sizing.total_minutes:.0f} minutes by the plan, one "
            "after another"
        )
        if sizing.caveat:
            setting.observer.say(sizing.caveat)
        try:
            _run_trials(folder, trials, setting)
        except StoppedError:
            with suppress(RunError):  # nothing has come to an end yet
                judge(design, trials, sizing, folder)
            raise
        return judge(design, trials, sizing, folder)


def forecast_study(study: StudyConfig, observer: Observer, *, offline: bool) -> Sizing:
    """How large the trials would be and what they would take, from a plan without weights; no directory.

    Raises:
        ConfigError: the declaration cannot be carried out, or does not fit the budget; says what would.
        VademecumError: the corpus, the configuration or the tokenizer cannot be had.
    """
    design = lay_out_design(study)
    plan = forecast_run(anchored(design.baseline), observer, offline=offline)
    return size_study(design, plan, _lanes(plan))


def prepare_study(study: StudyConfig, folder: StudyFolder, setting: Setting) -> tuple[Design, Sizing, list[Trial]]:
    """Lay out the design, make the shared run up to its plan, size the trials, once, and count those that were ended
    elsewhere. Nothing is declared before all that has been found to fit together."""
    design = lay_out_design(study)
    folder.check_claims(design)
    known = folder.files.file("sizing.json").is_file()
    if known:
        folder.check_unchanged(DECLARATION, study, FIXED)
    road = Road(folder.shared, anchored(design.baseline), setting.observer, setting.offline, setting.stop)
    run_shared(road, until="plan")
    before = folder.files.read_record("sizing.json", Sizing) if known else None
    plan = folder.shared.read_record("plan.json", Plan)
    sizing = size_study(design, plan, _lanes(plan), before)
    trials = size_trials(design, sizing)
    folder.take_in(belonging(trials, folder.shared))
    folder.declare(DECLARATION, study)
    folder.declare_claims(design)
    folder.files.write_json("sizing.json", sizing.model_dump(mode="json"))
    run_shared(road)
    return design, sizing, trials


def _lanes(plan: Plan) -> int:
    """Trials side by side that do not slow one another down."""
    return max(1, len(gpu_free_bytes())) if plan.device == "cuda" else 1


def fitting_at_once(plan: Plan) -> int:
    """Trials side by side on a CPU that have a core each and fit the plan's memory, by its own prediction; no more than
    have been measured to pay."""
    if plan.device != "cpu":
        return 1
    room = plan.memory_limit_bytes // max(1, *plan.predicted_peak_bytes.values())
    return max(1, min(MOST_AT_ONCE, usable_cores(), room))


def size_trials(design: Design, sizing: Sizing) -> list[Trial]:
    """All trials, as they are run."""
    return [
        replace(trial, config=anchored(trial.config)) for trial in design.trials(sizing.overrides, sizing.warmup_steps)
    ]


def _run_trials(folder: StudyFolder, trials: Sequence[Trial], setting: Setting) -> None:
    plan = folder.shared.read_record("plan.json", Plan)
    if setting.at_once is None:
        setting = replace(setting, at_once=fitting_at_once(plan))
    for trial in trials:
        folder.check(trial)
    open_trials = {trial.name: trial for trial in trials if not folder.is_finished(trial)}
    done = len(trials) - len(open_trials)
    for trial in open_trials.values():
        folder.begin(trial)
    if setting.share_base or (setting.share_base is None and sharing_pays(plan)):
        _train_together(folder, list(open_trials.values()), plan, setting)
    tasks = [trial_task(folder, name, plan, setting) for name in open_trials]

    def finished(task: Task, code: int) -> None:
        nonlocal done
        trial = open_trials[task.name]
        if setting.stop.asked and not folder.is_finished(trial):
            return
        folder.end(trial, code)
        if result := folder.result(trial):
            folder.keep(trial)
            done += 1
            remark = folder.last_words(trial) if result.status == "failed" else result.remark
            setting.observer.say(f"{task.name}: {result.status}" + (f": {remark}" if remark else ""))
            setting.observer.progress(done, len(trials), "trials")

    if tasks:
        setting.observer.begin("trials")
        setting.observer.progress(done, len(trials), "trials")  # the time left is reckoned from here
        setting.executor.run(tasks, setting.stop, finished)


def _train_together(folder: StudyFolder, trials: Sequence[Trial], plan: Plan, setting: Setting) -> None:
    """Train those that can share a base; whatever this leaves untrained is trained alone afterwards."""
    untrained = [trial for trial in trials if "train" not in folder.trial(trial).entries()]
    going, free = take_up_groups(folder, untrained)
    found = [*going, *(Group(folder.path, names) for names in share_groups(free, _lanes(plan)))]
    if not found and len(free) > 1:
        setting.observer.say(f"no trials can be trained together: {why_alone(free)}")
    groups = {group.names[0]: group for group in found}
    tasks = []
    for name, group in groups.items():
        group.begin()
        others = [part for other in group.names[1:] for part in ("--with", other)]
        tasks.append(trial_task(folder, name, plan, setting, until="train", more=others))

    def finished(task: Task, code: int) -> None:
        group = groups[task.name]
        # The code is the first trial's alone, and tells too that it diverged.
        if code and group.is_open and not setting.stop.asked:
            setting.observer.say(f"training together ended with exit code {code}, see {task.log}; now one by one")
            with suppress(RunError):  # another process is at work on it
                group.fail()

    if tasks:
        setting.observer.begin("training together")
        setting.executor.run(tasks, setting.stop, finished)


def trial_task(
    folder: StudyFolder, name: str, plan: Plan, setting: Setting, *, until: str = "report", more: Sequence[str] = ()
) -> Task:
    """A trial as a command that anyone could type."""
    cuda, at_once = plan.device == "cuda", setting.at_once or 1
    offline = ["--offline"] if setting.offline else []
    command = [sys.executable, "-m", "vademecum", "--quiet", *offline, "trial", str(folder.path.resolve()), name]
    # Together they take as large passes as fit.
    memory = plan.memory_limit_bytes if more else max(plan.predicted_peak_bytes.values())
    return Task(
        name=name,
        command=(*command, *more, "--until", until),
        log=folder.path / "trials" / name / "trial.log",
        threads=max(1, usable_cores() // (_lanes(plan) if cuda else 1 if more else at_once)),
        memory_bytes=0 if cuda else memory,  # that of a GPU, which it has to itself
        gpu=cuda,
    )
