"""What training is given, what it reports on the way, and what it gives back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from vademecum.records import Record
from vademecum.stopping import Stop
from vademecum.training.batching import Layout
from vademecum.training.supervision import Example


@dataclass(frozen=True)
class TrainingData:
    """The rows to train on, how they are laid out, and what was decided about the machine."""

    examples: list[Example]
    validation: list[Example]
    """Rows for the validation loss; none: no validation loss."""
    layout: Layout
    """Made of `examples`, whose order it counts by."""
    pad_id: int
    dtype: str
    """`float32`, `bfloat16` or `float16`: what the model was loaded in and is computed in."""
    device: str
    """`cpu`, `cuda` or `mps`."""
    save_steps: int
    """Optimizer steps between checkpoints; the last step is always one."""
    eval_steps: int
    """Optimizer steps between validation losses; the last step always has one."""


class TrainingSink(Protocol):
    """Where training writes. Steps up to the newest checkpoint survive a crash; later ones are trained again."""

    @property
    def checkpoints(self) -> Path:
        """The folder for the Trainer's checkpoints; training goes on from the newest whole one in it."""

    @property
    def stop(self) -> Stop:
        """Asked after every micro-batch."""

    def done(self) -> int:
        """How many steps, from the first on, have their row; no checkpoint of a later one is gone on from."""

    def say(self, text: str) -> None:
        """Something that the user should know."""

    def truncate(self, step: int) -> None:
        """Forget the rows and timings of steps after `step`: called before training starts or goes on, with 0 for
        afresh."""

    def step(self, row: dict[str, Any]) -> None:
        """One optimizer step, in order: `step` (from 1), `loss` (per trained token, before the step),
        `learning_rate`, `grad_norm` (before clipping; none where float16's loss scale was found too high and the
        step was skipped), `real_tokens`, `slots`, `examples`, and `validation_loss` where it was taken (after the
        step). The same training on the same machine gives the same rows, however often it was interrupted."""

    def timing(self, row: dict[str, Any]) -> None:
        """The clock at the end of a step: `step`, and `seconds` since this sitting began, on a monotonic clock. A
        fall in `seconds` from one row to the next marks a new sitting; their sum over sittings is for the caller
        to take."""


class TrainingSummary(Record):
    """What a whole training came to; seconds and rate are those of the last sitting."""

    optimizer_steps: int
    real_tokens: int
    """Over the whole training, padding not counted."""
    slots: int
    """Token positions computed over the whole training, padding counted."""
    padded_fraction: float
    real_tokens_per_second: float
    """In this sitting; 0 when it had no step left to do."""
    seconds: float
    """Of this sitting, validation and checkpoints included."""
    final_loss: float
    """Mean over the last tenth of the steps."""
    validation_loss: float | None
    """After the last step; none without validation rows."""
    status: Literal["completed", "diverged"]


class StepTiming(Record):
    """What one throw-away optimizer step cost."""

    seconds: float
    real_tokens: int
    slots: int
    peak_memory_bytes: int
    """Highest so far: on a GPU what tensors took, on a CPU what the whole process took."""
