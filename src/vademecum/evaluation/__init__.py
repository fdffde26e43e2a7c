"""Scores for answers (`metrics`), estimates with intervals (`intervals`), and verdicts (`compare`)."""

from vademecum.evaluation.compare import compare, slices, summarise
from vademecum.evaluation.intervals import clustered_standard_error, estimate, holm, paired_p
from vademecum.evaluation.metrics import METRICS, collect_references, rouge, score, signature, split_sentences

__all__ = [
    "METRICS",
    "clustered_standard_error",
    "collect_references",
    "compare",
    "estimate",
    "holm",
    "paired_p",
    "rouge",
    "score",
    "signature",
    "slices",
    "split_sentences",
    "summarise",
]
