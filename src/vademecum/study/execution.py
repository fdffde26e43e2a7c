"""A study from its declaration to its verdicts: size it, make what is shared, run the trials, judge the claims."""

import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from vademecum.config import RunConfig, load_config
from vademecum.errors import RunError, StoppedError
from vademecum.files import digest_value
from vademecum.hardware import gpu_free_bytes, usable_cores
from vademecum.planning import Plan
from vademecum.planning.choice import HOST_SLOTS
from vademecum.runs import Run
from vademecum.stages import Observer, Road, forecast_run, run_road, run_shared, train_runs_together
from vademecum.stopping import Stop
from vademecum.study.analysis import StudyAnalysis
from vademecum.study.declaration import StudyConfig
from vademecum.study.design import Design, Trial, anchored, lay_out_design
from vademecum.study.executors import Executor, Task
from vademecum.study.folder import DECLARATION, FIXED, StudyFolder
from vademecum.study.sizing import Sizing, size_study
from vademecum.study.verdict import judge
from vademecum.training import can_share

MOST_TOGETHER = 16
"""Trials on one frozen base: a joint checkpoint that is damaged costs all of them their steps since the one before."""


@dataclass(frozen=True)
class Setting:
    """How a study is worked on; none of it changes a result."""

    executor: Executor
    observer: Observer
    offline: bool = False
    stop: Stop = field(default_factory=Stop)
    at_once: int = 1
    """Trials that share the cores of a machine; an accelerator is never shared."""
    share_base: bool | None = False
    """Whether trials that can are trained together on one frozen base. None: where the plan says that it pays."""


def run_study(study: StudyConfig, path: Path, setting: Setting) -> StudyAnalysis:
    """Run every trial that is not finished, and judge; the same call goes on where it was stopped.

    Raises:
        ConfigError: the declaration cannot be carried out, or does not fit the budget; says what would.
        StaleError: the study was sized by another declaration.
        StoppedError: `setting.stop` was asked to.
        RunError: not one trial came to an end.
    """
    folder = StudyFolder(path)
    with folder.files.lock():
        design, sizing = prepare_study(study, folder, setting)
        trials = size_trials(design, sizing)
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


def prepare_study(study: StudyConfig, folder: StudyFolder, setting: Setting) -> tuple[Design, Sizing]:
    """Lay out the design, make the shared run up to its plan, and size the trials, once."""
    design = lay_out_design(study)
    known = folder.files.file("sizing.json").is_file()
    if known:
        folder.check_claims(design)
    folder.declare(DECLARATION, study, fixed=FIXED if known else ())
    road = Road(folder.shared, anchored(design.baseline), setting.observer, setting.offline, setting.stop)
    run_shared(road, until="plan")
    before = folder.files.read_record("sizing.json", Sizing) if known else None
    plan = folder.shared.read_record("plan.json", Plan)
    sizing = size_study(design, plan, _lanes(plan), before)
    folder.files.write_json("sizing.json", sizing.model_dump(mode="json"))
    run_shared(road)
    return design, sizing


def _lanes(plan: Plan) -> int:
    """Trials side by side that do not slow one another down."""
    return max(1, len(gpu_free_bytes())) if plan.device == "cuda" else 1


def size_trials(design: Design, sizing: Sizing) -> list[Trial]:
    """All trials, as they are run."""
    return [
        replace(trial, config=anchored(trial.config)) for trial in design.trials(sizing.overrides, sizing.warmup_steps)
    ]


def _run_trials(folder: StudyFolder, trials: Sequence[Trial], setting: Setting) -> None:
    plan = folder.shared.read_record("plan.json", Plan)
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
            done += 1
            remark = folder.last_words(trial) if result.status == "failed" else result.remark
            setting.observer.say(f"{task.name}: {result.status}" + (f": {remark}" if remark else ""))
            setting.observer.progress(done, len(trials), "trials")

    if tasks:
        setting.observer.begin("trials")
        setting.executor.run(tasks, setting.stop, finished)


def _train_together(folder: StudyFolder, trials: Sequence[Trial], plan: Plan, setting: Setting) -> None:
    """Train those that can share a base; whatever this leaves untrained is trained alone afterwards."""
    untrained = [trial for trial in trials if "train" not in folder.trial(trial).entries()]
    tasks = []
    for names in share_groups(untrained):
        others = [part for name in names[1:] for part in ("--with", name)]
        tasks.append(trial_task(folder, names[0], plan, setting, until="train", more=others))
    if untrained and not tasks:
        setting.observer.say(f"no trials can be trained together: {why_alone(untrained)}")

    def finished(task: Task, code: int) -> None:
        if code and not setting.stop.asked:
            setting.observer.say(f"training together ended with exit code {code}, see {task.log}; now one by one")

    if tasks:
        setting.observer.begin("training together")
        setting.executor.run(tasks, setting.stop, finished)


def sharing_pays(plan: Plan) -> bool:
    """Where a micro-batch costs less than the launching of its kernels: on an accelerator, with few tokens in it."""
    return plan.device != "cpu" and plan.micro_batch_tokens < HOST_SLOTS[plan.device]


def why_alone(trials: Sequence[Trial]) -> str:
    """Why none of these trials shares its base with another."""
    reasons = (can_share([trial.config.model], [trial.config.lora], [trial.config.train]) for trial in trials)
    return next(filter(None, reasons), "their base models or the shapes of their adapters differ")


def share_groups(trials: Sequence[Trial]) -> list[list[str]]:
    """Names of trials that can train on one frozen base, at most MOST_TOGETHER at once; trials alone are left out."""
    groups: dict[str, list[str]] = {}
    for trial in trials:
        config = trial.config
        if can_share([config.model], [config.lora], [config.train]) is None:
            groups.setdefault(f"{config.model!r} {config.lora!r}", []).append(trial.name)
    cut = [names[at : at + MOST_TOGETHER] for names in groups.values() for at in range(0, len(names), MOST_TOGETHER)]
    return [names for names in cut if len(names) > 1]


def trial_task(
    folder: StudyFolder, name: str, plan: Plan, setting: Setting, *, until: str = "report", more: Sequence[str] = ()
) -> Task:
    """A trial as a command that anyone could type."""
    cuda = plan.device == "cuda"
    offline = ["--offline"] if setting.offline else []
    command = [sys.executable, "-m", "vademecum", "--quiet", *offline, "trial", str(folder.path.resolve()), name]
    peak = max(plan.predicted_peak_bytes.values())
    return Task(
        name=name,
        command=(*command, *more, "--until", until),
        log=folder.path / "trials" / name / "trial.log",
        threads=max(1, usable_cores() // (_lanes(plan) if cuda else setting.at_once)),
        memory_bytes=plan.memory_limit_bytes if more else peak,  # together they take as large passes as fit
        gpus=1.0 if cuda else 0.0,
    )


def train_trials(path: Path, names: Sequence[str], road: Callable[[Run, RunConfig, Run], Road]) -> None:
    """Plan several trials, and train them together on one frozen base, or go on with it.

    `road` is given a trial's run, its configuration and the shared run.

    Raises:
        ConfigError: they cannot share a base.
        VademecumError: any stage's own.
    """
    roads = [road(*trial_run(path, name)) for name in names]
    for one in roads:
        run_road(one, until="plan")
    checkpoints = path / "work" / f"together-{digest_value(sorted(names))[:12]}"
    train_runs_together(roads, checkpoints)
    shutil.rmtree(checkpoints, ignore_errors=True)


def trial_run(path: Path, name: str) -> tuple[Run, RunConfig, Run]:
    """A trial of a study or a search: its run, its configuration, and the run whose finished stages it takes over.

    Raises:
        InputError: there is no such trial.
    """
    run = Run.open(path / "trials" / name)
    return run, load_config(run.file("config.json")), Run.open(path / "shared")
