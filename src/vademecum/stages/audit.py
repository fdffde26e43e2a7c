"""Looking at supervision without a run: what `vade audit` and `vade init` show."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vademecum.config import CorpusConfig, load_config
from vademecum.corpus import mapped_columns
from vademecum.files import write_whole
from vademecum.runs import Run
from vademecum.stages.material import Base, Pairs, subset
from vademecum.stages.prepare import prepare
from vademecum.stages.road import Road, Silence
from vademecum.training import SupervisionAudit, audit_supervision, build_examples, render_example

TEST_PAIRS = 320
"""That a new configuration has answered, or all if there are fewer: on a CPU answering all of a large table's would
take longer than the training."""


@dataclass(frozen=True)
class TrainingAudit:
    """The audit of a configuration's training tensors, and a few of them as text."""

    base: str
    cleaning: dict[str, Any]
    identifiers: dict[str, Any]
    """Kind → count, pairs, and the ids of the first."""
    counts: dict[str, int]
    test_groups: int
    """Of the test pairs that would be answered."""
    groups_needed: int
    """For a verdict."""
    leakage: dict[str, Any]
    supervision: SupervisionAudit
    examples: list[list[tuple[str, bool]]]
    """Per example: pieces of text, and whether the piece is trained."""

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "base": self.base,
            "cleaning": self.cleaning,
            "identifiers": self.identifiers,
            "split": self.counts,
            "test_groups": self.test_groups,
            "leakage": self.leakage,
            "supervision": self.supervision.model_dump(),
        }


def audit_training(target: str | Path, settings: Sequence[str], examples: int, offline: bool) -> TrainingAudit:
    """Prepare the corpus in a temporary folder and audit the rows that would be trained on."""
    config = load_config(target, settings)
    with tempfile.TemporaryDirectory() as folder:
        road = Road(Run.create(Path(folder)), config, Silence(), offline)
        prepare(road, Path(folder))
        base, corpus = Base.locate(road, weights=False), Pairs.read(road)
        pairs = corpus.train(config)
        rows = build_examples(pairs, base.tokenizer, config.prompt, config.train)
        shown = {pair.id for pair in subset(pairs, examples, config.seed)}
        leakage = road.run.read_json("leakage.json")
        return TrainingAudit(
            base=base.files.name,
            cleaning=road.run.read_json("cleaning.json"),
            identifiers=road.run.read_json("identifiers.json"),
            counts=leakage["counts"],
            test_groups=corpus.test_groups(config),
            groups_needed=config.evaluate.min_groups,
            leakage=leakage["leakage"],
            supervision=audit_supervision(pairs, rows, base.tokenizer, config.prompt),
            examples=[render_example(base.tokenizer, row) for row in rows if row.id in shown][:examples],
        )


def write_config(table: Path, out: Path, model: str, columns: Mapping[str, str]) -> None:
    """Write a configuration for a table. `columns` maps our fields to its columns, or to "" for none; others are mapped
    by their names.

    Raises:
        ConfigError: `columns` names a field that there is not.
        CorpusError: no column can be taken for the question or the answer, or the table is broken.
    """
    unmapped = {field: "" for field, column in columns.items() if not column}
    columns = mapped_columns(table, CorpusConfig(columns=dict(columns))) | unmapped
    name = (
        str(Path(model).resolve()) if Path(model).is_dir() else model
    )  # a relative path would go by the file's folder
    lines = [
        "# Made by `vade init`. Every setting: docs/configuration.md",
        "[corpus]",
        f"source = {json.dumps(str(table.resolve()), ensure_ascii=False)}",
        "",
        "[corpus.columns]",
        *(f"{field} = {json.dumps(column, ensure_ascii=False)}" for field, column in columns.items()),
        "",
        "[model]",
        f"name = {json.dumps(name, ensure_ascii=False)}",
        "",
        "# [prompt]",
        '# system = "…"    # before every question; unset, it speaks of medical questions',
        "",
        "[generate]",
        f"test_pairs = {TEST_PAIRS}",
        "",
        "[budget]",
        "minutes = 60",
    ]
    write_whole(out, "\n".join(lines) + "\n")
