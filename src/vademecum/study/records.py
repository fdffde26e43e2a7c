"""What a study hands from its trials to its verdicts."""

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
    """Optimizer step, validation loss."""
    metrics: dict[str, Estimate]
    """ROUGE of the tuned system with intervals over test pairs; empty unless completed."""
    minutes: float
    """Wall time of its own stages."""
    peak_memory_bytes: int

    @property
    def diverged(self) -> bool:
        """Whether a number was not finite, or training ended with a higher loss than it began with: that of the first
        step is the untrained model's, at which Wortsman et al. (https://arxiv.org/abs/2309.14322) cap the loss of a
        training that went wrong."""
        ended_above = self.final_loss is not None and bool(self.losses) and self.final_loss > self.losses[0][1]
        return self.status == "diverged" or (self.status == "completed" and ended_above)
