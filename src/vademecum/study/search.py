"""The best recipe within a budget on this machine: Optuna proposes settings, each trial is a run up to its training.

    searches/NAME/
      search-config.json   shared/   trials/NAME/   optuna.db, and optuna.json: the search's name in it
      search.json          what was tried, and how much better the best one is than the baseline, on test pairs
      best.json            a configuration that `vade run` takes

Trials are judged by validation loss. Only the baseline and the best one are walked to the verdict, on test pairs which
the search has not seen. Every trial trains on the same number of examples, whatever its accumulation.
"""

import json
import math
import time
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vademecum.config import RunConfig, anchored, load_config
from vademecum.errors import RunError, StoppedError
from vademecum.files import digest_value
from vademecum.planning import Plan
from vademecum.records import Comparison, Record
from vademecum.runs import Run
from vademecum.stages import Road, compare_runs, run_shared, seconds_spent
from vademecum.stopping import Stop
from vademecum.study.declaration import Range, SearchConfig
from vademecum.study.design import check_answering
from vademecum.study.execution import Setting, trial_task
from vademecum.study.folder import StudyFolder, validation_losses
from vademecum.study.records import BASELINE
from vademecum.study.storage import check_storage, open_optuna

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial


class Tried(Record):
    """One trial of a search."""

    name: str
    settings: dict[str, Any]
    status: str
    """`completed`, `pruned`, or what training came to."""
    validation_loss: float | None


class SearchResult(Record):
    """What a search has found; `search.json`."""

    best: str
    """The trial with the lowest validation loss; `baseline` where none was lower."""
    settings: dict[str, Any]
    """In which it differs."""
    trials: list[Tried]
    comparisons: list[Comparison]
    """The best one's tuned model against the baseline's, on test pairs; empty where the baseline is the best. One
    training against one: the intervals cover the choice of test pairs, not the luck of training."""


class PruningStop(Stop):
    """Stops a trial when the search is stopped, or when the pruner finds it hopeless."""

    def __init__(self, outer: Stop, trial: "optuna.Trial", run: Run) -> None:
        super().__init__()
        self._outer, self._trial, self._run = outer, trial, run
        self._told = self._size = 0
        self.pruned = False

    def check(self) -> None:
        """Go on, or stop here; the search's own stop says by which signal.

        Raises:
            StoppedError: the search was asked to stop, or the trial is hopeless.
        """
        self._outer.check()
        super().check()

    @property
    def asked(self) -> str | None:
        """Why to stop; None means go on."""
        if reason := self._outer.asked:
            return reason
        log = self._run.file("training.jsonl")  # asked many times a second, and it seldom grows
        size = log.stat().st_size if log.is_file() else 0
        if size != self._size:
            self._size = size
            for examples, loss in _losses(self._run)[self._told :]:
                self._trial.report(loss, examples)
                self._told += 1
                self.pruned = self.pruned or self._trial.should_prune()
        return "its validation loss is in the worse half" if self.pruned else None


def run_search(config: SearchConfig, path: Path, setting: Setting) -> SearchResult:
    """Try settings until the trials or the minutes are over, and hold the best against the baseline on test pairs.

    The same call goes on where it was stopped.

    Raises:
        InputError: Optuna is not installed, or its storage cannot be used.
        ConfigError: the declaration cannot be carried out, or holds a password.
        StaleError: the directory holds another search.
        StoppedError: `setting.stop` was asked to.
        RunError: the baseline's training gave nothing to compare with.
    """
    folder = StudyFolder(path)
    with folder.files.lock():
        search = _Search.prepare(config, folder, setting)
        search.train(BASELINE, {})
        search.check_baseline()
        while search.goes_on():
            search.try_one()
        result = search.judge()
        folder.files.write_json("search.json", result.model_dump(mode="json"))
        return result


@dataclass(frozen=True)
class _Search:
    config: SearchConfig
    folder: StudyFolder
    setting: Setting
    optuna: "optuna.Study"
    plan: Plan
    began: float
    """On the monotonic clock, less what earlier sittings took."""

    @classmethod
    def prepare(cls, config: SearchConfig, folder: StudyFolder, setting: Setting) -> "_Search":
        """Check that the directory is this search's, and plan the baseline."""
        began = time.monotonic() - _seconds_kept(folder)
        check_storage(config.storage)
        shared = load_config(config.baseline, config.set)
        check_answering(shared)
        for one in config.over:  # a misspelt setting, before anything is trained
            value = one.choices[0] if one.choices else one.low
            load_config(config.baseline, [*config.set, f"{one.setting}={json.dumps(value)}"])
        if (folder.path / "trials" / BASELINE).is_dir():
            folder.check_unchanged("search-config.json", config, ("baseline", "set", "over"))
        folder.declare("search-config.json", config)
        study = open_optuna(config, folder)
        run_shared(Road(folder.shared, anchored(shared), setting.observer, setting.offline, setting.stop))
        plan = folder.shared.read_record("plan.json", Plan)
        return cls(config, folder, setting, study, plan, began)

    def trial_config(self, settings: dict[str, Any]) -> RunConfig:
        """The baseline with some settings, for as many examples as the steps of the baseline's plan take."""
        fixed = [*self.config.set, "budget.minutes=none", *(f"{key}={json.dumps(to)}" for key, to in settings.items())]
        base, own = (
            math.prod(load_config(self.config.baseline, overrides).train.batch_shape)
            for overrides in (self.config.set, fixed)
        )
        steps = max(1, round(self.plan.optimizer_steps * base / own))
        fixed.append(f"train.max_steps={steps}")
        declared = load_config(self.config.baseline, self.config.set).train.warmup_steps
        if declared is not None and "train.warmup_steps" not in settings:  # the same share of the steps for all
            fixed.append(f"train.warmup_steps={round(self.plan.warmup_steps * steps / self.plan.optimizer_steps)}")
        return anchored(load_config(self.config.baseline, fixed))

    def train(self, name: str, settings: dict[str, Any], stop: Stop | None = None, until: str = "train") -> None:
        """Walk a trial as far as its training, or to the end; what it has done already is not done again. Its directory
        tells whether it got there."""
        run = Run.create(self.folder.path / "trials" / name)
        run.write_config(self.trial_config(settings))
        task = trial_task(self.folder, name, self.plan, self.setting, until=until)
        self.setting.executor.run([task], stop or self.setting.stop, lambda _task, _code: None)

    def check_baseline(self) -> None:
        """Refuse to search around a baseline whose own training comes to nothing.

        Raises:
            RunError: it does.
        """
        summary = training_summary(Run.create(self.folder.path / "trials" / BASELINE))
        if summary is None or summary["status"] != "completed":
            raise RunError(
                "the baseline's training gave nothing to compare with",
                hint=f"see {self.folder.path / 'trials' / BASELINE / 'trial.log'}",
            )

    def goes_on(self) -> bool:
        """Whether trials and minutes are left for another trial and for the two verdicts at the end."""
        every = math.prod(_values(one) for one in self.config.over)
        if len(self._finished()) >= min(self.config.trials, every):
            return False
        if self.config.minutes is None:
            return True
        predicted = self.plan.predicted_seconds
        verdicts = 2 * (predicted.get("predict/tuned", 0.0) + predicted["prepare and plan"])
        spent = time.monotonic() - self.began
        return spent + predicted["train"] + verdicts <= 60 * self.config.minutes

    def try_one(self) -> None:
        """Let Optuna propose settings, train with them, and tell it what came of it."""
        from optuna.trial import TrialState

        trial = self.optuna.ask()
        settings = {one.setting: _suggest(trial, one) for one in self.config.over}
        name = _trial_name(settings)
        run = Run.create(self.folder.path / "trials" / name)
        stop = PruningStop(self.setting.stop, trial, run)
        try:
            self.train(name, settings, stop)
        except StoppedError:
            if not stop.pruned:
                self.optuna.enqueue_trial(trial.params)  # the next sitting goes on with it
                self.optuna.tell(trial, state=TrialState.FAIL)
                raise
        trial.set_user_attr("name", name)
        summary = training_summary(run)
        if summary is not None and summary["status"] == "completed":
            self.optuna.tell(trial, summary["validation_loss"])
        else:
            # TPE keeps away from what was pruned, and knows nothing of what failed (optuna/optuna#1647).
            hopeless = stop.pruned or summary is not None
            self.optuna.tell(trial, state=TrialState.PRUNED if hopeless else TrialState.FAIL)
        self.setting.observer.say(f"{name}: {settings}: {self._tried(name, pruned=stop.pruned)}")

    def judge(self) -> SearchResult:
        """Walk the baseline and the best trial to their verdicts, and compare them."""
        tried = [Tried(name=BASELINE, settings={}, **self._tried(BASELINE, pruned=False))]
        for trial in self._finished():
            name, pruned = trial.user_attrs["name"], trial.state.name == "PRUNED"
            tried.append(Tried(name=name, settings=dict(trial.params), **self._tried(name, pruned=pruned)))
        completed = [one for one in tried if one.status == "completed" and one.validation_loss is not None]
        best = min(completed, key=lambda one: one.validation_loss or math.inf)
        for one in {BASELINE: tried[0], best.name: best}.values():
            self.train(one.name, one.settings, until="report")
            self._check_scored(one.name)
        baseline, run = (Run.open(self.folder.path / "trials" / name) for name in (BASELINE, best.name))
        self.folder.files.write_json("best.json", run.read_json("config.json"))
        rows = compare_runs(baseline, run, "tuned") if best.name != BASELINE else []
        return SearchResult(best=best.name, settings=best.settings, trials=tried, comparisons=rows)

    def _check_scored(self, name: str) -> None:
        if "score/tuned" not in Run.open(self.folder.path / "trials" / name).entries():
            raise RunError(
                f"{name} was trained, and did not come to its scores",
                hint=f"see {self.folder.path / 'trials' / name / 'trial.log'}; the same command goes on from there",
            )

    def _finished(self) -> "list[FrozenTrial]":
        """Trials that came to an end of their own; the same settings once, however often they were proposed."""
        ended = [one for one in self.optuna.trials if one.state.is_finished() and "name" in one.user_attrs]
        return list({one.user_attrs["name"]: one for one in ended}.values())

    def _tried(self, name: str, *, pruned: bool) -> dict[str, Any]:
        run = Run.create(self.folder.path / "trials" / name)
        summary = training_summary(run)
        if summary is not None:
            return {"status": summary["status"], "validation_loss": summary["validation_loss"]}
        losses = _losses(run)
        return {"status": "pruned" if pruned else "failed", "validation_loss": losses[-1][1] if losses else None}


def _seconds_kept(folder: StudyFolder) -> float:
    """What the shared run and the trials took in the sittings before, as their directories tell."""
    trials = (Run(path) for path in (folder.path / "trials").glob("*"))
    return seconds_spent(folder.shared) + sum(seconds_spent(trial, folder.shared) for trial in trials)


def _losses(run: Run) -> tuple[tuple[int, float], ...]:
    """Of a training at work: examples seen, whatever their number per step, and validation loss."""
    rows = run.read_lines("training.jsonl") if run.file("training.jsonl").is_file() else []
    seen = dict(zip((row["step"] for row in rows), accumulate(row["examples"] for row in rows), strict=True))
    return tuple((seen[step], loss) for step, loss in validation_losses(rows) if step)  # untrained, all are alike


def training_summary(run: Run) -> dict[str, Any] | None:
    """Of a finished training; None before."""
    summary: dict[str, Any] | None = run.read_json("training.json") if "train" in run.entries() else None
    return summary


def _values(one: Range) -> float:
    """How many values a setting can take."""
    if one.choices:
        return len(set(one.choices))
    whole = isinstance(one.low, int) and isinstance(one.high, int)
    return int(one.high or 0) - int(one.low or 0) + 1 if whole else math.inf


def _suggest(trial: "optuna.Trial", one: Range) -> Any:  # noqa: ANN401  any setting's value
    if one.choices:
        return trial.suggest_categorical(one.setting, one.choices)
    low, high = one.low or 0.0, one.high or 0.0
    if isinstance(one.low, int) and isinstance(one.high, int):
        return trial.suggest_int(one.setting, one.low, one.high, log=one.log)
    return trial.suggest_float(one.setting, low, high, log=one.log)


def _trial_name(settings: dict[str, Any]) -> str:
    """The same settings have the same directory, so that what is done of them is not done again."""
    return digest_value(settings)[:12]
