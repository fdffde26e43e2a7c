"""What a study's trials say together: study.json and the report."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace

from vademecum.errors import RunError
from vademecum.planning import Plan
from vademecum.report import base_in_words, file_name
from vademecum.report.numbers import counted
from vademecum.study.analysis import StudyAnalysis, analyse
from vademecum.study.declaration import StudyConfig
from vademecum.study.design import Design, Trial, without_path
from vademecum.study.effects import Measurements
from vademecum.study.folder import StudyFolder
from vademecum.study.latex import render_study_latex
from vademecum.study.records import BASELINE, TrialResult
from vademecum.study.report import StudyMaterial, render_study_html, render_study_markdown
from vademecum.study.sizing import Sizing


def judge(design: Design, trials: Sequence[Trial], sizing: Sizing, folder: StudyFolder) -> StudyAnalysis:
    """Read what the trials came to, finished or not, and write the verdicts; after `StudyFolder.take_in`.

    Raises:
        RunError: not one trial has come to an end.
    """
    found = {trial.name: result for trial in trials if (result := folder.result(trial))}
    if all(result.status == "failed" for result in found.values()):
        words = next((folder.last_words(trial) for trial in trials if trial.name in found), "none was begun")
        raise RunError(f"not one trial came to an end: {words}", hint=f"see the logs in {folder.path / 'trials'}")
    for trial in trials:
        folder.keep(trial)
    completed = [trial for trial in trials if trial.name in found and found[trial.name].status == "completed"]
    analysis = analyse(
        design,
        list(found.values()),
        Measurements(
            scores={trial.name: folder.scores(trial) for trial in completed},
            base=folder.shared_scores("base"),
            losses={trial.name: folder.pair_losses(trial) for trial in completed},
        ),
        design.baseline.evaluate,
        _same(trials),
    )
    late = folder.enter_judged(_judged(analysis), _ended(found.values()))
    material = replace(_material(design, trials, sizing, folder), late_seeds=tuple(late))
    folder.files.write_json("study.json", analysis.model_dump(mode="json"))
    folder.files.write_text("study.md", render_study_markdown(analysis, material))
    folder.files.write_text("study.html", render_study_html(analysis, material))
    folder.files.write_text("study.tex", render_study_latex(analysis, material.name))
    return analysis


def _judged(analysis: StudyAnalysis) -> set[str]:
    """What the claims with a final verdict went by."""
    final = [claim for claim in analysis.claims if not claim.interim]
    compared = [claim for claim in final if claim.direction != "diverges"]
    beside = {name for claim in compared for name in (claim.against, BASELINE)}
    return {claim.variant for claim in final} | beside


def _ended(results: Iterable[TrialResult]) -> dict[str, list[int]]:
    """Variant → seeds that came to a result; a failed trial is tried again."""
    ended: dict[str, list[int]] = {}
    for result in results:
        if result.status != "failed":
            ended.setdefault(result.variant, []).append(result.seed)
    return ended


def _material(design: Design, trials: Sequence[Trial], sizing: Sizing, folder: StudyFolder) -> StudyMaterial:
    plan = folder.shared.read_record("plan.json", Plan)
    entry = folder.shared.entries()["plan"]
    remarks = []
    if sizing.warmup_steps:
        remarks.append(
            f"The warmup counts were meant for {design.study.reference_steps:,} steps; all keep that proportion to the "
            f"{sizing.optimizer_steps['baseline']:,} steps of the baseline, or to those of their own variant."
        )
    if kept := folder.ended_elsewhere:
        where = sorted({f"{one.device}, torch {one.versions.get('torch', 'unknown')}" for one in kept})
        remarks.append(
            f"{counted(len(kept), 'trial')} of {len(trials)} ended on another machine or in an earlier sitting "
            f"({'; '.join(where)}), on the same pairs and with the same settings; their minutes are of there."
        )
    for names in _same(trials):
        remarks.append(
            f"At this size {' and '.join(names)} come to the same settings: what differs between them is noise, and "
            "claims about them say nothing."
        )
    return StudyMaterial(
        name=folder.files.name,
        config=_without_paths(design.study),
        base=base_in_words(design.baseline.model.name, plan.base),
        corpus=file_name(design.baseline.corpus.source),
        train_pairs=sizing.train_pairs,
        device=f"{plan.device}, {plan.dtype}",
        versions=entry.versions,
        command=shlex.join(["vade", "study", f"studies/{folder.files.name}/study-config.json"]),
        remarks=tuple(remarks),
    )


def _same(trials: Sequence[Trial]) -> list[list[str]]:
    """Variants with different names and the same configuration, such as warmups that are all rounded to nothing."""
    names: dict[str, list[str]] = {}
    for trial in trials:
        train = trial.config.train.model_copy(update={"seed": None})
        key = trial.config.model_copy(update={"train": train}).model_dump_json()
        if trial.variant not in names.setdefault(key, []):
            names[key].append(trial.variant)
    return [found for found in names.values() if len(found) > 1]


def _without_paths(study: StudyConfig) -> StudyConfig:
    """A declaration as a public report may show it: of a path the last part."""
    factors = []
    for factor in study.factors:
        levels = ((level,) if isinstance(level, str) else level for level in factor.levels)
        shown = tuple(tuple(map(without_path, level)) for level in levels)
        factors.append(factor.model_copy(update={"levels": shown}))
    return study.model_copy(
        update={
            "baseline": file_name(study.baseline),
            "set": tuple(map(without_path, study.set)),
            "factors": tuple(factors),
        }
    )
