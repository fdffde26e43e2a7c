"""One of several trainings on a shared base: what it is given, and where it stands."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vademecum.config.sections import TrainConfig
from vademecum.errors import DivergedError
from vademecum.files import digest_value
from vademecum.training.arguments import training_arguments
from vademecum.training.engine import StepRows
from vademecum.training.loss import ExampleLoss
from vademecum.training.protocol import TrainingData, TrainingSink, TrainingStatus, TrainingSummary
from vademecum.training.shared_layers import SharedAdapters
from vademecum.training.supervision import IGNORED
from vademecum.training.trainer import judge, summarise

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Member:
    """A training as `train` would be given it, but for the model."""

    config: TrainConfig
    data: TrainingData
    """Its own layout, over the same examples as the others' or its own; `save_steps` is of no account."""
    seed: int
    """Of its adapter's start; the order of its rows is the layout's."""
    sink: TrainingSink
    """For its rows and timings. Its clock shows the time that all members took together; `checkpoints` is not used."""

    @property
    def digest(self) -> str:
        """Tells a checkpoint of this training from another's."""
        return digest_value([self.config.model_dump(mode="json"), self.seed, self.data.layout.micro_batches])


class Course:
    """A member's optimizer and schedule, the steps that it has finished, and the one in flight."""

    def __init__(self, member: Member, adapters: SharedAdapters, number: int, folder: Path) -> None:
        """Make optimizer and schedule as the Trainer makes them, for member `number` of `adapters`."""
        import torch
        from transformers import Trainer

        self.member, self.number = member, number
        self._adapters, self._layout = adapters, member.data.layout
        # Without validation rows of its own the Trainer would not let itself be made.
        arguments = training_arguments(member.config, replace(member.data, validation=[]), folder, member.seed)
        trainer = Trainer(adapters.put_in(number), arguments)
        trainer.create_optimizer_and_scheduler(self._layout.steps)
        self._optimizer, self._schedule = trainer.optimizer, trainer.lr_scheduler
        self._parameters = adapters.parameters(number)
        self._trained = [sum(label != IGNORED for label in one.labels[1:]) for one in member.data.examples]
        self.step = 0
        """Finished."""
        self._passed = 0
        """Micro-batches of the step in flight that went through."""
        self._nothing = torch.zeros((), device=self._parameters[0].device)
        self.loss = self._nothing
        """Per trained token, of the step in flight so far."""
        self.remark = ""
        """Why it ended early."""
        self._reported: list[dict[str, Any]] = []
        self._rows = StepRows(self._report)

    @property
    def active(self) -> bool:
        """Whether it still trains."""
        return not self.remark and self.step < self._layout.steps

    @property
    def at_end_of_step(self) -> bool:
        """Whether all micro-batches of the step in flight went through."""
        return self._passed == self._layout.accumulation

    def micro_batch(self) -> list[int]:
        """The examples that come next: those of a step with the most slots first, so that members' like ones meet."""
        batches = self._layout.step(self.step)
        return sorted(batches, key=self._layout.slots_of, reverse=True)[self._passed]

    def shape(self) -> tuple[int, int]:
        """Rows and width of the micro-batch that comes next."""
        rows = self.micro_batch()
        return len(rows), self._layout.slots_of(rows) // len(rows)

    def tokens_of_step(self) -> int:
        """Trained tokens of the step in flight."""
        return max(1, sum(self._trained[index] for rows in self._layout.step(self.step) for index in rows))

    def passed(self, loss: "Tensor") -> None:
        """A micro-batch went through, and its share of the step's loss is this."""
        self.loss = self.loss + loss
        self._passed += 1

    def clipped(self) -> "Tensor":
        """Clip the gradient as the Trainer does; its norm before that."""
        from torch.nn.utils import clip_grad_norm_

        return clip_grad_norm_(self._parameters, self.member.config.max_grad_norm or float("inf"))

    def update(self, loss: float, grad_norm: float) -> None:
        """Finish the step in flight, and report it."""
        logs = {
            "loss": loss,
            "learning_rate": self._schedule.get_last_lr()[0],
            "grad_norm": grad_norm,
            **self._layout.step_counts(self.step),
        }
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad(set_to_none=False)
        self.step, self._passed, self.loss = self.step + 1, 0, self._nothing
        try:
            self._rows.add(self.step, logs, skipped=False, hold=self.is_validated)
        except DivergedError as error:
            self._end(error)

    @property
    def is_validated(self) -> bool:
        """Whether the step that was finished last has a validation loss; step 0 is the untrained model."""
        data = self.member.data
        return bool(data.validation) and (self.step % data.eval_steps == 0 or self.step == self._layout.steps)

    def validated(self, losses: Sequence[ExampleLoss]) -> None:
        """Report the step that was finished last, with the losses of its validation rows."""
        try:
            self._rows.add_validation(self.step, losses)
        except DivergedError as error:
            self._end(error)

    def _end(self, error: DivergedError) -> None:
        self.step, self.remark = max(0, self.step - 1), error.message

    def _report(self, row: dict[str, Any]) -> None:
        sink = self.member.sink
        self._reported.append(row)
        sink.step(row)
        sink.timing({"step": row["step"], "seconds": sink.seconds()})

    def state(self) -> dict[str, Any]:
        """Everything that is needed to go on from here, between two micro-batches."""
        return {
            "step": self.step,
            "passed": self._passed,
            "loss": self.loss,
            "remark": self.remark,
            "rows": self._reported,
            "weights": [parameter.detach().clone() for parameter in self._parameters],
            "gradients": self._gradients() if self._passed else None,
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
        }

    def _gradients(self) -> list["Tensor"]:
        return [parameter.grad.clone() for parameter in self._parameters if parameter.grad is not None]

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.step, self._passed, self.remark = state["step"], state["passed"], state["remark"]
        self.loss = state["loss"].to(self._nothing.device)
        self._reported = list(state["rows"])
        for number, parameter in enumerate(self._parameters):
            parameter.data.copy_(state["weights"][number])
            if state["gradients"] is not None and parameter.grad is not None:
                parameter.grad.copy_(state["gradients"][number])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])

    def summary(self) -> TrainingSummary:
        """What it came to; the model must be as PEFT made it again."""
        status: TrainingStatus = "diverged"
        remark = self.remark
        if not remark:
            status, remark = judge(self._adapters.put_in(self.number), self.member.data)
        rows = [row for row in self._reported if "validation_loss" in row]
        validations = [{"eval_loss": row["validation_loss"], "step": row["step"]} for row in rows]
        return summarise([*self._reported, *validations], self.member.sink, status, remark)
