"""What training is given, what it reports on the way, and what it gives back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from vademecum.records import Record
from vademecum.stopping import Stop
from vademecum.training.adaptations import Adaptation, Schedule
from vademecum.training.batching import Layout
from vademecum.training.ranks import ALONE, Ranks
from vademecum.training.supervision import Example

TrainingStatus = Literal["completed", "diverged", "unchanged"]
"""`diverged`: a number was not finite. `unchanged`: the adapter does not change what the model says."""


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
    """Optimizer steps between validation losses; the untrained model and the last step always have one."""
    memory_limit_bytes: int | None = None
    """What the process may hold on a CPU; above it, micro-batches are halved. None: no limit."""
    time_limit_seconds: float | None = None
    """What the whole training may take, over all sittings; when it would take longer, steps are cut. None: no limit."""
    schedule: Schedule | None = None
    """How the layout's steps run along the learning-rate schedule; none: as planned."""
    ranks: Ranks = ALONE
    """The processes that train together; the layout is that of all of them."""

    @property
    def share(self) -> Layout:
        """What of the layout this process does."""
        return self.layout.share(self.ranks.rank)


class TrainingSink(Protocol):
    """Where training writes. Steps up to the newest checkpoint survive a crash; later ones are trained again."""

    @property
    def checkpoints(self) -> Path:
        """The folder for the Trainer's checkpoints; training goes on from the newest whole one in it."""

    @property
    def stop(self) -> Stop:
        """Asked after every micro-batch."""

    def done(self) -> int:
        """How many steps, from 1 on, have their row; no checkpoint of a later one is gone on from."""

    def seconds(self) -> float:
        """How long this training has worked so far, all sittings together, on a clock that only goes forward."""

    def adaptations(self) -> list[Adaptation]:
        """The changes of course so far, all sittings together."""

    def adapt(self, adaptation: Adaptation) -> None:
        """Put a change of course on disk; it takes effect afterwards."""

    def say(self, text: str) -> None:
        """Something that the user should know."""

    def truncate(self, step: int) -> None:
        """Forget the rows and timings of steps after `step`: called before training goes on, and with -1, which leaves
        nothing, before it starts."""

    def step(self, row: dict[str, Any]) -> None:
        """One optimizer step, in order: `step` (from 1), `loss` (per trained token, before the step),
        `learning_rate`, `grad_norm` (before clipping; none where float16's loss scale was found too high and the
        step was skipped), `real_tokens`, `slots`, `examples`, and where they were taken (after the step)
        `validation_loss` and `validation_rows`, which says `id`, `nats` and `tokens` of each. Before all of them, where
        there are validation rows, comes what the untrained model makes of these, as `step` 0 with nothing counted. The
        same training on the same machine gives the same rows, however often it was interrupted."""

    def timing(self, row: dict[str, Any]) -> None:
        """The clock when a step's row is complete: `step` and `seconds`, as `seconds()` tells them."""


class TrainingSummary(Record):
    """What a whole training came to, over all sittings."""

    optimizer_steps: int
    """That were finished."""
    real_tokens: int
    """In those steps, padding not counted."""
    slots: int
    """Token positions computed in those steps, padding counted."""
    padded_fraction: float
    real_tokens_per_second: float
    seconds: float
    """Validation and checkpoints included."""
    final_loss: float | None
    """Mean over the last tenth of the steps; none where the first step diverged."""
    validation_loss: float | None
    """The last that was taken after a step; none without validation rows."""
    status: TrainingStatus
    remark: str = ""
    """What was found, where it is not completed."""
    events: tuple[Adaptation, ...] = ()
    """What was changed on the way."""


class StepTiming(Record):
    """What one throw-away optimizer step cost."""

    seconds: float
    real_tokens: int
