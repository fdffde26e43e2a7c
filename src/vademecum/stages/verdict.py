"""score/SYSTEM: predictions/SYSTEM.jsonl → scores/SYSTEM.jsonl. report: everything → report.*, the card."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vademecum.config import RunConfig, load_config
from vademecum.errors import InputError
from vademecum.evaluation import collect_references, compare, score
from vademecum.files import digest_value
from vademecum.planning import Plan
from vademecum.records import Comparison, Prediction, QAPair, Score
from vademecum.report import ReportMaterial, build_report, render_card, render_html, render_latex, render_markdown
from vademecum.runs import Run
from vademecum.stages.material import Pairs
from vademecum.stages.road import Road, Stage
from vademecum.stages.train import ADAPTER, check_trained, has_adapter, scored_systems


def score_with(system: str) -> Callable[[Road, Path], None]:
    """The work of one system's score stage."""

    def work(road: Road, _: Path) -> None:
        config, pairs = road.config, Pairs.read(road)
        predictions = road.run.read_rows(f"predictions/{system}.jsonl", Prediction)
        rows = score(
            predictions,
            pairs.pairs,
            pairs.groups,
            config.evaluate,
            collect_references({pair.id: pair for pair in pairs.of("test")}),
        )
        road.run.write_rows(f"scores/{system}.jsonl", rows)

    return work


def score_stage(system: str) -> Stage:
    """The stage that scores one system's predictions."""
    return Stage(
        name=f"score/{system}",
        settings=("evaluate.use_stemmer", "evaluate.multi_reference"),
        reads=("pairs.jsonl", "splits.jsonl", f"predictions/{system}.jsonl"),
        writes=(f"scores/{system}.jsonl",),
        work=score_with(system),
        wanted=lambda road: system in scored_systems(road.run, road.config),
    )


def gather(run: Run, config: RunConfig) -> ReportMaterial:
    """Collect what a report needs from the run's files."""
    systems = scored_systems(run, config)
    tuned = "tuned" in config.generate.systems
    pairs = {pair.id: pair for pair in run.read_rows("pairs.jsonl", QAPair)}
    predictions: dict[str, list[Prediction]] = {
        system: run.read_rows(f"predictions/{system}.jsonl", Prediction) for system in systems
    }
    asked = {row.id for rows in predictions.values() for row in rows}
    decided = run.read_record("plan.json", Plan)
    plan = {**run.read_json("plan.json"), "predicted_peak_bytes": decided.predicted_peak_bytes}
    training = run.read_json("training.json") if tuned else None
    entries = {name: entry for name, entry in run.entries().items() if _belongs(name, config)}
    return ReportMaterial(
        name=run.name,
        config=decided.apply(config),
        config_digest=digest_value(config.model_dump(mode="json")),
        command=_command(run, config, decided, training),
        base=plan["base"],
        stages={name: entry.model_dump() for name, entry in entries.items()},
        cleaning=run.read_json("cleaning.json"),
        identifiers=run.read_json("identifiers.json"),
        leakage=run.read_json("leakage.json"),
        supervision=run.read_json("supervision.json"),
        plan=plan,
        training=training,
        training_rows=run.read_lines("training.jsonl") if tuned else [],
        timing_rows=run.read_lines("timing.jsonl") if tuned and run.file("timing.jsonl").is_file() else [],
        decoding=run.read_json("decoding.json"),
        split_digest=run.digest("splits.jsonl"),
        pairs={name: pairs[name] for name in asked},
        predictions=predictions,
        scores={system: run.read_rows(f"scores/{system}.jsonl", Score) for system in systems},
    )


def _command(run: Run, config: RunConfig, plan: Plan, training: Mapping[str, Any] | None) -> str:
    """What makes the run again, with the number format that was chosen and the steps that a budget came to. The run is
    called by its name and where it would be by default: a report is passed on, and the same wherever it is written."""
    settings = [f"model.dtype={plan.dtype}"] if config.model.dtype == "auto" else []
    if plan.ended_by == "budget":
        taken = training["optimizer_steps"] if training and training["status"] == "completed" else plan.optimizer_steps
        settings += ["budget.minutes=none", f"train.max_steps={taken}"]
        settings += [f"train.warmup_steps={plan.warmup_steps}"]
    given = [part for setting in settings for part in ("--set", setting)]
    return shlex.join(["vade", "run", f"runs/{run.name}/config.json", *given, "--out", f"runs/{run.name}-again"])


def _belongs(stage: str, config: RunConfig) -> bool:
    """Whether a finished stage lies before the report on this configuration's road, which may have dropped systems."""
    system = stage.partition("/")[2] or {"train": "tuned"}.get(stage, "")
    return stage != "report" and (not system or system in config.generate.systems)


def write_report(run: Run, config: RunConfig, *, public: bool = False) -> None:
    """Write report.json, report.tex, report.md, report.html and the adapter's card.

    With `public` the pages are report-public.md and report-public.html, without questions and answers.
    """
    material = gather(run, config)
    report = build_report(material)
    name = "report-public" if public else "report"
    run.write_json("report.json", report)
    run.write_text("report.tex", render_latex(report, run.name))
    run.write_text(f"{name}.md", render_markdown(report, material, public=public))
    run.write_text(f"{name}.html", render_html(report, material, public=public))
    if material.training is not None and has_adapter(run):
        run.write_text("adapter/README.md", render_card(report, material))


def report_stage(systems: Sequence[str]) -> Stage:
    """The last stage: the verdict on paper."""
    tuned = "tuned" in systems
    return Stage(
        name="report",
        settings=("seed", "evaluate", "generate.systems"),
        reads=(
            "cleaning.json",
            "identifiers.json",
            "leakage.json",
            "supervision.json",
            "plan.json",
            "decoding.json",
            "pairs.jsonl",
            "splits.jsonl",
            *((*ADAPTER, "training.json", "training.jsonl") if tuned else ()),
            *(f"predictions/{system}.jsonl" for system in systems),
            *(f"scores/{system}.jsonl" for system in systems),
        ),
        writes=("report.json", "report.tex", "report.md", "report.html"),
        work=lambda road, _: write_report(road.run, road.config),
        wanted=lambda road: bool(scored_systems(road.run, road.config)),
    )


def render_again(run: Run, config: RunConfig, *, public: bool) -> None:
    """Write a finished run's report anew.

    Raises:
        InputError: the run has not come as far as scores.
        UntrainedError: its only system is `tuned`, and training diverged or changed nothing.
    """
    entries, systems = run.entries(), config.generate.systems
    if "train" in entries:
        systems = scored_systems(run, config)
    missing = [f"score/{system}" for system in systems if f"score/{system}" not in entries]
    if missing:
        raise InputError(
            f"{run.path} has no {', '.join(missing)} yet", hint="finish it with the `vade run` command first"
        )
    if not systems:
        check_trained(run)
    with run.lock():
        write_report(run, config, public=public)


def differing_settings(baseline: Run, run: Run) -> dict[str, tuple[object, object]]:
    """Dotted name → its value in either run, where these differ."""
    one, other = (_flat(load_config(place.file("config.json")).model_dump(mode="json")) for place in (baseline, run))
    names = dict.fromkeys([*one, *other])
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}


def _flat(config: Mapping[str, Any]) -> dict[str, object]:
    sections = {name: value if isinstance(value, dict) else {"": value} for name, value in config.items()}
    return {f"{name}.{key}".rstrip("."): value for name, section in sections.items() for key, value in section.items()}


def compare_runs(baseline: Run, run: Run, system: str) -> list[Comparison]:
    """One system's answers in two runs, paired on the test pairs that both answered with the same reference.

    Raises:
        InputError: a run lacks that system, or no pair was answered by both.
    """
    # compare() orders unknown systems by name: A keeps the baseline first, whatever the runs are called.
    names = (f"A ({baseline.name})", f"B ({run.name})")
    rows = []
    for place in (baseline, run):
        if f"score/{system}" not in place.entries():
            raise InputError(f"{place.path} has no scores of {system!r}", hint="name another with --system")
        asked = {row.id for row in place.read_rows(f"scores/{system}.jsonl", Score)}
        rows.append({pair.id: pair for pair in place.read_rows("pairs.jsonl", QAPair) if pair.id in asked})
    both = rows[0].keys() & rows[1].keys()
    unlike = {name for name in both if rows[0][name].answer != rows[1][name].answer}
    if both == unlike:
        raise InputError(
            f"{baseline.path} and {run.path} share no test pair",
            hint="compare runs with the same corpus, split and seed",
        )
    before, after = (place.read_rows(f"scores/{system}.jsonl", Score) for place in (baseline, run))
    # Another cleaning or grouping rule names groups differently: both sides go by the baseline's.
    groups = {row.id: row.group for row in before}
    own = [row.model_copy(update={"group": groups.get(row.id, row.group)}) for row in after if row.id not in unlike]
    scores = {names[0]: before, names[1]: own}
    config = load_config(run.file("config.json"))
    other = load_config(baseline.file("config.json")).evaluate
    if (config.evaluate.use_stemmer, config.evaluate.multi_reference) != (other.use_stemmer, other.multi_reference):
        raise InputError(
            f"{baseline.path} and {run.path} were scored differently (use_stemmer, multi_reference)",
            hint="score one anew: give its `vade run` command with --set evaluate.…",
        )
    return compare(scores, config.evaluate, config.seed)
