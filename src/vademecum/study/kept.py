"""What is kept of a study for one that goes on where its run directories are not: on another machine, or on one that
forgets. It holds numbers, names and the ids of pairs, and no text of the corpus.

studies/NAME/results/
  TRIAL.json       a trial that has ended     judged/VARIANT.json    the seeds that it had when it was first judged
  declared.json    the seeds of every variant, the claims and the margins
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from vademecum.files import digest_value
from vademecum.planning import Plan
from vademecum.records import Record, Score
from vademecum.report import file_name
from vademecum.runs import Entry, Run
from vademecum.study.declaration import Claim, Margins
from vademecum.study.design import Design, Trial
from vademecum.study.records import PairLoss, TrialResult

RESULTS = "results"
OF_THE_MACHINE = {
    "model": ("device",),
    "train": ("gradient_checkpointing", "save_steps", "report_to", "dp_shard_size"),
    "budget": ("memory_gb",),
    "generate": ("batch_size",),
}
"""Section → settings that go by what a machine has, and change no more in a result than rounding."""
ANSWERS = "quantization of answers"
BATCH_SHAPE = ("examples_per_step", "per_device_train_batch_size", "gradient_accumulation_steps")


class KeptTrial(Record):
    """All that a study's verdicts need of one trial."""

    form: Literal["vademecum.trial/1"] = "vademecum.trial/1"
    belongs_to: dict[str, str]
    """What it has in common with every study that may count it, see `belonging`."""
    training: str
    """Digest of what its training wrote: by it a result is known as that of a run directory."""
    result: TrialResult
    scores: tuple[Score, ...]
    """Of the tuned system on the test pairs; none unless completed."""
    losses: tuple[PairLoss, ...]
    """Of the last validation; none unless completed."""
    device: str
    versions: dict[str, str]
    """Of the packages that it was trained with."""


class Declared(Record):
    """What stands once there are results, see `StudyFolder.check_claims`."""

    form: Literal["vademecum.declared/1"] = "vademecum.declared/1"
    seeds: dict[str, tuple[int, ...]]
    """Variant → seeds."""
    claims: tuple[Claim, ...]
    margins: Margins

    @classmethod
    def of(cls, design: Design) -> "Declared":
        """What a design declares."""
        seeds = {variant.name: variant.seeds for variant in design.variants}
        return cls(seeds=seeds, claims=design.study.claims, margins=design.study.margins)


def belonging(trials: Sequence[Trial], shared: Run) -> dict[str, dict[str, str]]:
    """Trial → what a kept result of it must have been made with: the number format, the weights that answer, and
    digests of its settings (of a path the last part), of the pairs and their splits, and of the base model, where that
    is the baseline's.

    The baseline's trials come first.
    """
    corpus = digest_value([shared.digest("pairs.jsonl"), shared.digest("splits.jsonl")])
    plan, baseline = shared.read_record("plan.json", Plan), trials[0].config.model
    found = {}
    for trial in trials:
        found[trial.name] = {
            "settings": digest_value(_settings(trial)),
            "corpus": corpus,
            "number format": plan.dtype,
            ANSWERS: plan.apply(trial.config).generate.quantization,
        }
        if (trial.config.model.name, trial.config.model.revision) == (baseline.name, baseline.revision):
            found[trial.name]["base model"] = plan.base_digest
    return found


def differing(kept: Mapping[str, str], asked: Mapping[str, str]) -> list[str]:
    """In what a kept trial is another one than is asked for."""
    told = {ANSWERS: "none", **kept}  # as all did before it was noted
    return [name for name in asked if told.get(name) != asked[name]]


def training_digest(entry: Entry) -> str:
    """Of what a training wrote, by its entry in the manifest."""
    return digest_value(sorted(entry.outputs.items()))


def _settings(trial: Trial) -> dict[str, object]:
    settings = trial.config.model_dump(mode="json")
    for section, names in OF_THE_MACHINE.items():
        for name in names:
            del settings[section][name]
    settings["generate"]["quantization"] = "auto"  # what it came to is compared by itself
    for name in BATCH_SHAPE:
        del settings["train"][name]
    settings["train"]["examples"] = math.prod(trial.config.train.batch_shape)
    settings["corpus"]["source"] = file_name(trial.config.corpus.source)
    settings["model"]["name"] = file_name(trial.config.model.name)
    return settings
