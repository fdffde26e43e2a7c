"""What is kept of a trial that has ended, for a study that goes on where its run directories are not: on another
machine, or on one that forgets. It holds numbers and the ids of pairs, and no text of the corpus.

studies/NAME/results/
  TRIAL.json    a trial that has ended      judged.json    the seeds that every variant had when it was first judged
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from vademecum.files import digest_value
from vademecum.planning import Plan
from vademecum.records import Record, Score
from vademecum.report import file_name
from vademecum.runs import Run
from vademecum.study.design import Design, Trial
from vademecum.study.records import PairLoss, TrialResult

RESULTS = "results"


class KeptTrial(Record):
    """All that a study's verdicts need of one trial."""

    form: Literal["vademecum.trial/1"] = "vademecum.trial/1"
    belongs_to: dict[str, str]
    """What it has in common with every study that may count it, see `belonging`."""
    result: TrialResult
    scores: tuple[Score, ...]
    """Of the tuned system on the test pairs; none unless completed."""
    losses: tuple[PairLoss, ...]
    """Of the last validation; none unless completed."""
    device: str
    versions: dict[str, str]
    """Of the packages that it was trained with."""


def belonging(design: Design, trials: Sequence[Trial], shared: Run) -> dict[str, dict[str, str]]:
    """Trial → what a kept result of it must have been made with: the number format, and digests of its settings (of a
    path the last part), of the pairs and their splits, and of the margins and all that is claimed of its variant."""
    corpus = digest_value([shared.digest("pairs.jsonl"), shared.digest("splits.jsonl")])
    numbers = shared.read_record("plan.json", Plan).dtype
    return {
        trial.name: {
            "settings": digest_value(_settings(trial)),
            "corpus": corpus,
            "number format": numbers,
            "claims": digest_value(_claimed(design, trial.variant)),
        }
        for trial in trials
    }


def differing(kept: Mapping[str, str], asked: Mapping[str, str]) -> list[str]:
    """In what a kept trial is another one than is asked for."""
    return [name for name in asked if kept.get(name) != asked[name]]


def _settings(trial: Trial) -> dict[str, object]:
    settings = trial.config.model_dump(mode="json")
    settings["corpus"]["source"] = file_name(trial.config.corpus.source)
    settings["model"]["name"] = file_name(trial.config.model.name)
    return settings


def _claimed(design: Design, variant: str) -> list[object]:
    claims = [
        claim.model_dump(mode="json")
        for claim in design.study.claims
        if variant in (design.aliases[claim.variant], design.aliases[claim.against])
    ]
    return [design.study.margins.model_dump(mode="json"), sorted(claims, key=digest_value)]
