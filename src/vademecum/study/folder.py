"""The study's directory: what was declared, how it was sized, the shared run, and a run directory per trial.

studies/NAME/
  study-config.json   the declaration      sizing.json   what all trials have in common
  shared/             a run: corpus, split, plan and the answers of every system but the tuned one
  trials/NAME/        a run each, with its log
  results/            what is kept of the declaration and of every trial that has ended, see `kept`
  study.json  study.md  study.html  study.tex
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vademecum.errors import RunError, StaleError
from vademecum.files import digest_file
from vademecum.records import Assignment, Score
from vademecum.runs import Run
from vademecum.study.declaration import SearchConfig, StudyConfig
from vademecum.study.design import Design, Trial, folder_name, trial_name
from vademecum.study.kept import RESULTS, Declared, KeptTrial, differing, training_digest
from vademecum.study.records import BASELINE, PairLoss, TrialResult, TrialStatus
from vademecum.study.sizing import OWN_STAGES

FIXED = ("baseline", "set", "minutes", "reference_steps")
"""Settings of a study that its trials were sized by. Factors and seeds may be added to later; of what stands, and of
margins and claims, see `StudyFolder.check_claims`."""
DECLARATION = "study-config.json"
DECLARED = f"{RESULTS}/declared.json"
FAILURE = "failure.json"
"""Of a trial's last try, where that came to no result."""
TIMED_STAGES = (*OWN_STAGES, "score/tuned", "report")
TRIAL_STAGES = ("plan", *TIMED_STAGES)


def validation_losses(rows: Iterable[Mapping[str, Any]]) -> tuple[tuple[int, float], ...]:
    """Step and validation loss, of the rows of training.jsonl that have one."""
    return tuple((row["step"], row["validation_loss"]) for row in rows if "validation_loss" in row)


class StudyFolder:
    """Where a study lies; its artifacts are read and written as a run's are."""

    def __init__(self, path: Path) -> None:
        self.files = Run.create(path)
        self.path = self.files.path
        self._log_sizes: dict[str, int] = {}
        self._kept: dict[str, KeptTrial] = {}
        """Trials that were ended elsewhere."""
        self._belonging: Mapping[str, Mapping[str, str]] = {}
        """Trial → what its result is made with."""
        self._digests: dict[tuple[int, ...], str] = {}
        """Of the versions of files that were read: device, inode, bytes, time."""

    @property
    def shared(self) -> Run:
        """What is made once for all trials."""
        return Run.create(self.path / "shared")

    def trial(self, trial: Trial) -> Run:
        """The run directory of a trial; it is there once the trial was begun."""
        return self._run(trial.name)

    def _run(self, name: str) -> Run:
        return Run(self.path / "trials" / name)

    def log(self, trial: Trial) -> Path:
        """What a trial's process says."""
        return self.path / "trials" / trial.name / "trial.log"

    def check_unchanged(self, name: str, declared: StudyConfig | SearchConfig, fixed: Sequence[str]) -> None:
        """Refuse a declaration in which one of the `fixed` settings is another than in the one that is written.

        Raises:
            StaleError: one is.
        """
        before, now = self.files.read_json(name), declared.model_dump(mode="json")
        if changed := [key for key in fixed if before[key] != now[key]]:
            raise StaleError(
                f"{', '.join(changed)} changed since the trials in {self.path} were begun",
                hint="choose another directory with --out, or take the change back",
            )

    def declare(self, name: str, declared: StudyConfig | SearchConfig) -> None:
        """Write the declaration."""
        self.files.write_json(name, declared.model_dump(mode="json"))

    def declare_claims(self, design: Design) -> None:
        """Write what `check_claims` goes by."""
        self.files.write_json(DECLARED, Declared.of(design).model_dump(mode="json"))

    def check_claims(self, design: Design) -> None:
        """Refuse to judge by what was not declared before the results: once a trial has ended, here or elsewhere,
        margins and claims stand, and so do the seeds of every variant that has a result, and the baseline's.

        Trials may still be added, and what is claimed of a variant without a result.

        Raises:
            StaleError: something was changed or taken away.
            RunError: `results/` was brought along without what was declared, or that is damaged.
        """
        if not self.files.file(DECLARED).is_file():
            if found := self._kept_names():
                raise RunError(
                    f"{self.path / RESULTS} has the result of {found[0]}, and not declared.json, which lay beside it",
                    hint="copy the whole folder, or choose another directory with --out",
                )
            return
        before, now = self.files.read_record(DECLARED, Declared), Declared.of(design)
        seen = set(self._kept_names())
        ended = {
            variant
            for variant, seeds in before.seeds.items()
            for name in (trial_name(variant, seed) for seed in seeds)
            if name in seen or self._is_finished(name)
        }
        if not ended:
            return
        if dropped := _dropped(before, now, {BASELINE, *ended}):
            raise StaleError(
                f"{'; '.join(dropped)} would be dropped after the results in {self.path} were seen",
                hint="take the change back, or choose another directory with --out; seeds and levels may be added",
            )
        late = [
            claim.name
            for claim in now.claims
            if claim not in before.claims
            and design.aliases[claim.variant] in ended
            and (design.aliases[claim.against] in ended or not claim.compares)
        ]
        gone = [claim.name for claim in before.claims if claim not in now.claims]
        changed = [*(["the margins"] if before.margins != now.margins else []), *map(repr, [*gone, *late])]
        if changed:
            raise StaleError(
                f"{', '.join(changed)} would be declared otherwise than before the results in {self.path} were seen",
                hint="take the change back, or choose another directory with --out; claims about variants that have "
                "not been run may be added",
            )

    def enter_judged(self, judged: Collection[str], ended: Mapping[str, Sequence[int]]) -> list[str]:
        """Remember the seeds that the variants of the first final verdicts had; `judged` are those that have one now,
        and `ended` says the seeds of every variant that came to a result. The trials that ended after that: added
        seeds, and failed ones that were tried again."""
        added = []
        for variant, seeds in ended.items():
            name = f"{RESULTS}/judged/{folder_name(variant)}.json"
            if self.files.file(name).is_file():
                known = self.files.read_json(name)
                added += [f"{variant}, seed {seed}" for seed in seeds if seed not in known]
            elif variant in judged:
                self.files.write_json(name, list(seeds))
        return added

    def take_in(self, belonging: Mapping[str, Mapping[str, str]]) -> None:
        """Count the trials of `results/` that were not trained here; `belonging` says what each must be made with.

        Raises:
            StaleError: one is of a trial that is not declared, was made with something else, or has ended here too.
            RunError: a file is damaged.
        """
        self._belonging = belonging
        for name in self._kept_names():
            file = self.path / RESULTS / f"{name}.json"
            if name not in belonging:
                raise StaleError(
                    f"{file} is the result of a trial that is not declared",
                    hint="what has been seen is not dropped: declare its level and seed again, or take another --out",
                )
            ended_here, trained = self._is_finished(name), self._run(name).entries().get("train")
            try:
                kept = KeptTrial.model_validate_json(file.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:  # pydantic's is a ValueError
                if ended_here:  # it will be written anew
                    continue
                raise RunError(
                    f"{file} is missing or damaged: {error}",
                    hint="copy it again from where it was made, or delete it: then its trial is run again here",
                ) from None
            if trained and training_digest(trained) == kept.training:
                continue
            if ended_here:
                raise StaleError(
                    f"{file} is another result of a trial that has ended in {self._run(name).path} too",
                    hint="keep one: remove that file, or that directory",
                )
            if found := differing(kept.belongs_to, belonging[name]):
                raise StaleError(
                    f"{file} was ended with another {', another '.join(found)} than the study has now",
                    hint="give the study as it was declared there, or take another --out; of a study with `minutes`, "
                    "whose trials are sized by the machine, results cannot be carried to another",
                )
            self._kept[name] = kept

    def _kept_names(self) -> list[str]:
        """Of the trials that have a file in `results/`."""
        files = (self.path / RESULTS).glob("*.json")
        return sorted(file.stem for file in files if file.name[0] != "." and file != self.files.file(DECLARED))

    def keep(self, trial: Trial) -> None:
        """Write what a trial that has ended here came to into `results/`; a failed one has come to nothing. After
        `take_in`."""
        result = self.result(trial)
        if trial.name in self._kept or result is None or result.status == "failed":
            return
        completed, entry = result.status == "completed", self.trial(trial).entries()["train"]
        kept = KeptTrial(
            belongs_to=dict(self._belonging[trial.name]),
            training=training_digest(entry),
            result=result.finite(),
            scores=tuple(self.scores(trial)) if completed else (),
            losses=tuple(self.pair_losses(trial)) if completed else (),
            device=entry.device,
            versions=entry.versions,
        )
        self.files.write_text(f"{RESULTS}/{trial.name}.json", kept.model_dump_json() + "\n")

    @property
    def ended_elsewhere(self) -> tuple[KeptTrial, ...]:
        """Trials that have a result and no run here."""
        return tuple(self._kept.values())

    def check(self, trial: Trial) -> None:
        """Refuse a trial that was trained with other settings under the same name.

        Raises:
            StaleError: it was.
        """
        run = self.trial(trial)
        if "train" in run.entries() and run.read_json("config.json") != trial.config.model_dump(mode="json"):
            raise StaleError(
                f"{run.path} was trained with other settings than the study has now",
                hint="choose another directory with --out, rename the factor, or remove that trial's directory and its "
                f"file in {RESULTS}/",
            )

    def is_finished(self, trial: Trial) -> bool:
        """Whether a trial came to an end that is a result: a verdict, or a training that gave nothing to score.

        One whose files were lost or harmed since is open again: run once more, it makes just those anew.
        """
        return trial.name in self._kept or self._is_finished(trial.name)

    def _is_finished(self, name: str) -> bool:
        run = self._run(name)
        entries = run.entries()
        outputs = [one for entry in entries.values() for one in entry.outputs.items()]
        if not all(self._is_whole(run.file(name), digest) for name, digest in outputs):
            return False
        return "report" in entries or ("train" in entries and run.read_json("training.json")["status"] != "completed")

    def begin(self, trial: Trial) -> None:
        """Make a trial's directory ready for another try."""
        self.trial(trial).write_config(trial.config)
        self.trial(trial).file(FAILURE).unlink(missing_ok=True)
        log = self.log(trial)
        self._log_sizes[trial.name] = log.stat().st_size if log.is_file() else 0

    def end(self, trial: Trial, exit_code: int) -> None:
        """A trial's process has ended, with a result or without; what an earlier try failed of counts until then."""
        run = self.trial(trial)
        if self.is_finished(trial):
            run.file(FAILURE).unlink(missing_ok=True)
        else:
            run.write_json(FAILURE, {"exit_code": exit_code, "remark": self._heard(trial, exit_code)})

    def last_words(self, trial: Trial) -> str:
        """Why a trial failed. It may name paths and quote the corpus: for whoever runs the study, not for a report."""
        remark: str = self.trial(trial).read_json(FAILURE)["remark"]
        return remark

    def result(self, trial: Trial) -> TrialResult | None:
        """What a trial came to; None while it has neither a result nor failed.

        Raises:
            RunError: its files are damaged.
        """
        if kept := self._kept.get(trial.name):
            return kept.result
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
            losses=tuple((row["step"], row["loss"]) for row in rows if row["step"]),
            validation=validation_losses(rows),
            metrics=metrics,
            minutes=sum(entries[name].seconds for name in TIMED_STAGES if name in entries) / 60,
            peak_memory_bytes=max(entry.peak_memory_bytes for entry in own),
        )

    def scores(self, trial: Trial) -> list[Score]:
        """Of the tuned system of a completed trial."""
        if kept := self._kept.get(trial.name):
            return list(kept.scores)
        return self.trial(trial).read_rows("scores/tuned.jsonl", Score)

    def pair_losses(self, trial: Trial) -> list[PairLoss]:
        """Of a completed trial's last validation; none where it had no validation pairs. An answer that was split
        counts as one."""
        if kept := self._kept.get(trial.name):
            return list(kept.losses)
        run = self.trial(trial)
        groups = {row.id: row.group for row in run.read_rows("splits.jsonl", Assignment)}
        taken = [row["validation_rows"] for row in run.read_lines("training.jsonl") if "validation_rows" in row]
        found: dict[str, PairLoss] = {}
        for row in taken[-1] if taken else []:
            before = found.get(row["id"])
            nats, tokens = (before.nats, before.tokens) if before else (0.0, 0)
            found[row["id"]] = PairLoss(
                id=row["id"], group=groups[row["id"]], nats=nats + row["nats"], tokens=tokens + row["tokens"]
            )
        return list(found.values())

    def shared_scores(self, system: str) -> list[Score]:
        """Of a system that all trials share; none where it was not asked for."""
        name = f"scores/{system}.jsonl"
        return self.shared.read_rows(name, Score) if self.shared.file(name).is_file() else []

    def _is_whole(self, file: Path, digest: str) -> bool:
        """Whether a file has the content that its stage wrote. One that many trials have as a link is read once."""
        try:
            found = file.stat()
        except OSError:  # it is not there
            return False
        version = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        if version not in self._digests:
            self._digests[version] = digest_file(file)
        return self._digests[version] == digest

    def _failed(self, trial: Trial) -> TrialResult:
        return TrialResult(
            name=trial.name,
            variant=trial.variant,
            seed=trial.seed,
            status="failed",
            remark=f"exit code {self.trial(trial).read_json(FAILURE)['exit_code']}; its trial.log says why",
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

    def _heard(self, trial: Trial, exit_code: int) -> str:
        """The last error of this try in the trial's log."""
        log = self.log(trial)
        said = log.read_bytes()[self._log_sizes.get(trial.name, 0) :] if log.is_file() else b""
        lines = said.decode("utf-8", errors="replace").splitlines()
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return errors[-1] if errors else f"it ended without a word, with exit code {exit_code}"


def _dropped(before: Declared, now: Declared, variants: Collection[str]) -> list[str]:
    """What was declared of these variants and is not any more."""
    found = []
    for variant, seeds in before.seeds.items():
        if variant in variants and variant not in now.seeds:
            found.append(variant)
        elif variant in variants:
            found += [f"{variant}, seed {seed}" for seed in seeds if seed not in now.seeds[variant]]
    return found
