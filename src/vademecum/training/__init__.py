"""Pairs → supervised rows → fixed micro-batches → a trained adapter."""

from vademecum.training.adaptations import NOT_REPEATED, Adaptation
from vademecum.training.arguments import CHECKPOINTS_KEPT, WARMUP_SHARE, check_arguments
from vademecum.training.batching import Layout, lay_out
from vademecum.training.loss import evaluation_rate
from vademecum.training.ranks import ALONE, DismissedError, Ranks, join_launcher
from vademecum.training.sharded import layers_of, shard_base
from vademecum.training.shared_base import Member, SharedAdapters, Sharing, can_share, train_together
from vademecum.training.supervision import (
    Example,
    SupervisionAudit,
    audit_supervision,
    build_examples,
    check_audit,
    render_example,
)
from vademecum.training.trainer import StepTiming, TrainingData, TrainingSink, TrainingSummary, probe_steps, train

__all__ = [
    "ALONE",
    "CHECKPOINTS_KEPT",
    "NOT_REPEATED",
    "WARMUP_SHARE",
    "Adaptation",
    "DismissedError",
    "Example",
    "Layout",
    "Member",
    "Ranks",
    "SharedAdapters",
    "Sharing",
    "StepTiming",
    "SupervisionAudit",
    "TrainingData",
    "TrainingSink",
    "TrainingSummary",
    "audit_supervision",
    "build_examples",
    "can_share",
    "check_arguments",
    "check_audit",
    "evaluation_rate",
    "join_launcher",
    "lay_out",
    "layers_of",
    "probe_steps",
    "render_example",
    "shard_base",
    "train",
    "train_together",
]
