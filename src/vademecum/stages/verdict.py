"""score/SYSTEM: predictions/SYSTEM.jsonl → scores/SYSTEM.jsonl. report: everything → report.json, .md, .html, the card."""

from collections.abc import Callable, Sequence
from pathlib import Path

from vademecum.config import RunConfig
from vademecum.evaluation import score
from vademecum.files import digest_value
from vademecum.records import Prediction, QAPair, Score
from vademecum.report import ReportMaterial, build_report, render_card, render_html, render_markdown
from vademecum.runs import Run
from vademecum.stages.material import Pairs
from vademecum.stages.road import Road, Stage
from vademecum.stages.train import ADAPTER


def score_with(system: str) -> Callable[[Road, Path], None]:
    """The work of one system's score stage."""

    def work(road: Road, _: Path) -> None:
        config, pairs = road.config, Pairs.read(road)
        predictions = road.run.read_rows(f"predictions/{system}.jsonl", Prediction)
        references = _references(pairs) if config.evaluate.multi_reference else None
        rows = score(predictions, pairs.pairs, pairs.groups, config.evaluate, references)
        road.run.write_rows(f"scores/{system}.jsonl", rows)

    return work


def _references(pairs: Pairs) -> dict[str, list[str]]:
    """Id → every answer that the corpus gives to the same question."""
    answers: dict[str, list[str]] = {}
    for pair in sorted(pairs.pairs.values(), key=lambda pair: pair.id):
        answers.setdefault(pair.question.casefold(), []).append(pair.answer)
    return {pair.id: answers[pair.question.casefold()] for pair in pairs.pairs.values()}


def score_stage(system: str) -> Stage:
    """The stage that scores one system's predictions."""
    return Stage(
        name=f"score/{system}",
        settings=("evaluate.use_stemmer", "evaluate.multi_reference"),
        reads=("pairs.jsonl", "splits.jsonl", f"predictions/{system}.jsonl"),
        writes=(f"scores/{system}.jsonl",),
        work=score_with(system),
    )


def gather(run: Run, config: RunConfig) -> ReportMaterial:
    """Collect what a report needs from the run's files."""
    systems = config.generate.systems
    tuned = "tuned" in systems
    pairs = {pair.id: pair for pair in run.read_rows("pairs.jsonl", QAPair)}
    predictions = {system: run.read_rows(f"predictions/{system}.jsonl", Prediction) for system in systems}
    asked = {row.id for rows in predictions.values() for row in rows}
    plan = run.read_json("plan.json")
    entries = run.entries()
    return ReportMaterial(
        name=run.name,
        config=config,
        config_digest=digest_value(config.model_dump(mode="json")),
        command=f"vade run runs/{run.name}/config.json --out runs/{run.name}-again",
        base=plan["base"],
        stages={name: entry.model_dump() for name, entry in entries.items()},
        cleaning=run.read_json("cleaning.json"),
        leakage=run.read_json("leakage.json"),
        supervision=run.read_json("supervision.json"),
        plan=plan,
        training=run.read_json("training.json") if tuned else None,
        training_rows=run.read_lines("training.jsonl") if tuned else [],
        timing_rows=run.read_lines("timing.jsonl") if tuned else [],
        decoding=run.read_json("decoding.json"),
        split_digest=run.digest("splits.jsonl"),
        pairs={name: pairs[name] for name in asked},
        predictions=predictions,
        scores={system: run.read_rows(f"scores/{system}.jsonl", Score) for system in systems},
    )


def write_report(run: Run, config: RunConfig, *, public: bool = False) -> None:
    """Write report.json, report.md, report.html and the adapter's card; `public` leaves out every corpus text."""
    material = gather(run, config)
    report = build_report(material)
    run.write_json("report.json", report)
    run.write_text("report.md", render_markdown(report, material, public=public))
    run.write_text("report.html", render_html(report, material, public=public))
    if material.training is not None:
        run.write_text("adapter/README.md", render_card(report, material))


def report_stage(systems: Sequence[str]) -> Stage:
    """The last stage: the verdict on paper."""
    tuned = "tuned" in systems
    return Stage(
        name="report",
        settings=("seed", "evaluate", "generate.systems"),
        reads=(
            "cleaning.json", "leakage.json", "supervision.json", "plan.json", "decoding.json", "pairs.jsonl", "splits.jsonl",
            *((*ADAPTER, "training.json", "training.jsonl") if tuned else ()),
            *(f"predictions/{system}.jsonl" for system in systems),
            *(f"scores/{system}.jsonl" for system in systems),
        ),  # fmt: skip
        writes=("report.json", "report.md", "report.html"),
        work=lambda road, _: write_report(road.run, road.config),
    )
