"""What a report is made from; `stages` gathers it from the run's files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vademecum.config import RunConfig
from vademecum.records import Prediction, QAPair, Score


@dataclass(frozen=True)
class ReportMaterial:
    """Everything that `build_report` looks at. Mappings are the JSON artifacts of the same name."""

    name: str
    config: RunConfig
    config_digest: str
    command: str
    """What to type to make the run again."""
    base: str
    """The base model in words."""
    stages: Mapping[str, Mapping[str, Any]]
    """Stage → its manifest entry (seconds, peak_memory_bytes, versions, device, dtype, inputs, outputs)."""
    cleaning: Mapping[str, Any]
    identifiers: Mapping[str, Mapping[str, Any]]
    leakage: Mapping[str, Any]
    supervision: Mapping[str, Any]
    plan: Mapping[str, Any]
    """With `predicted_peak_bytes` per kind of stage, which the file has in terms."""
    training: Mapping[str, Any] | None
    """None when no system was trained."""
    training_rows: Sequence[Mapping[str, Any]]
    """Of training.jsonl."""
    timing_rows: Sequence[Mapping[str, Any]]
    """Of timing.jsonl."""
    decoding: Mapping[str, Any]
    split_digest: str
    pairs: Mapping[str, QAPair]
    """The test pairs that were asked."""
    predictions: Mapping[str, Sequence[Prediction]]
    """System → its answers."""
    scores: Mapping[str, Sequence[Score]]
    """System → one row per answer."""
