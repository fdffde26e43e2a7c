"""What a study hands from its trials to its verdicts."""

import math
from collections.abc import Sequence
from typing import Literal

from vademecum.records import Estimate, Record

BASELINE = "baseline"
"""The variant that all others are held against; a search's default."""
COMBINED = "combined"
"""Stands for the factor of a grid's variants in which several levels differ."""

TrialStatus = Literal["completed", "diverged", "unchanged", "failed"]
"""`diverged`: a number was not finite. `unchanged`: the adapter has no effect. `failed`: any other error."""


class PairLoss(Record):
    """What a trial's trained model made of one validation pair."""

    id: str
    group: str
    nats: float
    """Cross entropy, summed over the answer's trained tokens."""
    tokens: int


class TrialResult(Record):
    """What one trial came to; a trial that diverged or failed is a result like any other."""

    name: str
    """Its folder under `trials/`, such as `optimizer=adafactor-seed0`."""
    variant: str
    """`baseline`, or the levels that differ from it: `optimizer=adafactor`."""
    seed: int
    """train.seed."""
    status: TrialStatus
    remark: str
    """What was found, where it is not completed."""
    optimizer_steps: int
    real_tokens: int
    """Trained on, padding not counted."""
    final_loss: float | None
    """Mean training loss over the last tenth of the steps."""
    validation_loss: float | None
    """The last that was taken."""
    losses: tuple[tuple[int, float], ...]
    """Optimizer step, training loss per trained token."""
    validation: tuple[tuple[int, float], ...]
    """Optimizer step, validation loss; that of step 0 is the untrained model's."""
    metrics: dict[str, Estimate]
    """ROUGE of the tuned system with intervals over test pairs; empty unless completed."""
    minutes: float
    """Wall time of its own stages. Not of the probe, which some trials take over and others need; of a training
    together its share by real tokens."""
    peak_memory_bytes: int
    """Of a training together that of all."""

    @property
    def untrained_loss(self) -> float | None:
        """Validation loss before the first step; none where it was not taken."""
        return next((loss for step, loss in self.validation if step == 0), None)

    @property
    def ended_above(self) -> bool:
        """Whether it completed with a higher loss than the untrained model has on the same validation pairs, at which
        Wortsman et al. (https://arxiv.org/abs/2309.14322) cap the loss of a training that went wrong."""
        before, after = self.untrained_loss, self.validation_loss
        return self.status == "completed" and before is not None and after is not None and after > before

    @property
    def diverged(self) -> bool:
        """Whether a number was not finite, or training left the model worse on validation pairs than it was."""
        return self.status == "diverged" or self.ended_above

    @property
    def outcome(self) -> str:
        """Its status, for a table or a count of them."""
        return "completed, worse than untrained" if self.ended_above else self.status

    def finite(self) -> "TrialResult":
        """Without the numbers of a diverged training that are none, which JSON cannot hold."""
        return self.model_copy(
            update={
                "losses": _drawn(self.losses),
                "validation": _drawn(self.validation),
                "final_loss": _number(self.final_loss),
                "validation_loss": _number(self.validation_loss),
            }
        )


def _drawn(points: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    return tuple(point for point in points if math.isfinite(point[1]))


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
