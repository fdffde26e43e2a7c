"""The study's directory: what was declared, how it was sized, the shared run, and a run directory per trial.

studies/NAME/
  study-config.json   the declaration      sizing.json   what all trials have in common
  shared/             a run: corpus, split, plan and the answers of every system but the tuned one
  trials/NAME/        a run each, with its log
  study.json  study.md  study.html  study.tex
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vademecum.errors import StaleError
from vademecum.records import Score
from vademecum.runs import Run
from vademecum.study.declaration import SearchConfig, StudyConfig
from vademecum.study.design import Trial
from vademecum.study.records import TrialResult, TrialStatus
from vademecum.study.sizing import OWN_STAGES

FIXED = ("baseline", "set", "minutes", "reference_steps")
"""Settings of a study that its trials were sized by. Factors, seeds, margins and claims may be added to later."""
FAILURE = "failure.json"
"""Of a trial's last try, where that came to no result."""
TRIAL_STAGES = ("plan", *OWN_STAGES, "score/tuned", "report")


def validation_losses(rows: Iterable[Mapping[str, Any]]) -> tuple[tuple[int, float], ...]:
    """Step and validation loss, of the rows of training.jsonl that have one."""
    return tuple((row["step"], row["validation_loss"]) for row in rows if "validation_loss" in row)


class StudyFolder:
    """Where a study lies; its artifacts are read and written as a run's are."""

    def __init__(self, path: Path) -> None:
        self.files = Run.create(path)
        self.path = self.files.path

    @property
    def shared(self) -> Run:
        """What is made once for all trials."""
        return Run.create(self.path / "shared")

    def trial(self, trial: Trial) -> Run:
        """The run directory of a trial."""
        return Run.create(self.path / "trials" / trial.name)

    def log(self, trial: Trial) -> Path:
        """What a trial's process says."""
        return self.path / "trials" / trial.name / "trial.log"

    def declare(self, name: str, declared: StudyConfig | SearchConfig, *, fixed: Sequence[str]) -> None:
        """Write the declaration, unless one of the `fixed` settings has changed.

        Raises:
            StaleError: one has.
        """
        settings = declared.model_dump(mode="json")
        before = self.files.read_json(name) if fixed else {}
        if changed := [key for key in fixed if before[key] != settings[key]]:
            raise StaleError(
                f"{', '.join(changed)} changed since the trials in {self.path} were begun",
                hint="choose another directory with --out, or take the change back",
            )
        self.files.write_json(name, settings)

    def check(self, trial: Trial) -> None:
        """Refuse a trial that was trained with other settings under the same name.

        Raises:
            StaleError: it was.
        """
        run = self.trial(trial)
        if "train" in run.entries() and run.read_json("config.json") != trial.config.model_dump(mode="json"):
            raise StaleError(
                f"{run.path} was trained with other settings than the study has now",
                hint="choose another directory with --out, rename the factor, or remove that trial's directory",
            )

    def is_finished(self, trial: Trial) -> bool:
        """Whether a trial came to an end that is a result: a verdict, or a training that gave nothing to score."""
        entries = self.trial(trial).entries()
        return "report" in entries or ("train" in entries and self._training_status(trial) != "completed")

    def begin(self, trial: Trial) -> None:
        """Make a trial's directory ready for another try."""
        run = self.trial(trial)
        run.write_config(trial.config)
        run.file(FAILURE).unlink(missing_ok=True)
        self.log(trial).unlink(missing_ok=True)

    def fail(self, trial: Trial, exit_code: int) -> None:
        """A trial's process has ended without a result."""
        self.trial(trial).write_json(FAILURE, {"exit_code": exit_code, "remark": self._last_words(trial, exit_code)})

    def result(self, trial: Trial) -> TrialResult | None:
        """What a trial came to; None while it has neither a result nor failed.

        Raises:
            RunError: its files are damaged.
        """
        run = self.trial(trial)
        entries = run.entries()
        if not self.is_finished(trial):
            return self._failed(trial) if run.file(FAILURE).is_file() else None
        training, rows = run.read_json("training.json"), run.read_lines("training.jsonl")
        status: TrialStatus = training["status"]
        metrics = run.read_json("report.json")["systems"]["tuned"]["metrics"] if status == "completed" else {}
        own = [entries[name] for name in TRIAL_STAGES if name in entries]
        return TrialResult(
            name=trial.name,
            variant=trial.variant,
            seed=trial.seed,
            status=status,
            remark=training["remark"],
            optimizer_steps=training["optimizer_steps"],
            real_tokens=training["real_tokens"],
            final_loss=training["final_loss"],
            validation_loss=training["validation_loss"],
            losses=tuple((row["step"], row["loss"]) for row in rows),
            validation=validation_losses(rows),
            metrics=metrics,
            minutes=sum(entry.seconds for entry in own) / 60,
            peak_memory_bytes=max(entry.peak_memory_bytes for entry in own),
        )

    def scores(self, trial: Trial) -> list[Score]:
        """Of the tuned system of a completed trial."""
        return self.trial(trial).read_rows("scores/tuned.jsonl", Score)

    def shared_scores(self, system: str) -> list[Score]:
        """Of a system that all trials share; none where it was not asked for."""
        name = f"scores/{system}.jsonl"
        return self.shared.read_rows(name, Score) if self.shared.file(name).is_file() else []

    def _training_status(self, trial: Trial) -> TrialStatus:
        status: TrialStatus = self.trial(trial).read_json("training.json")["status"]
        return status

    def _failed(self, trial: Trial) -> TrialResult:
        return TrialResult(
            name=trial.name,
            variant=trial.variant,
            seed=trial.seed,
            status="failed",
            remark=self.trial(trial).read_json(FAILURE)["remark"],
            optimizer_steps=0,
            real_tokens=0,
            final_loss=None,
            validation_loss=None,
            losses=(),
            validation=(),
            metrics={},
            minutes=0.0,
            peak_memory_bytes=0,
        )

    def _last_words(self, trial: Trial, exit_code: int) -> str:
        log = self.log(trial)
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return errors[-1] if errors else f"it ended without a word, with exit code {exit_code}"
