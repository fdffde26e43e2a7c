"""TRL's SFTTrainer, bent to a fixed layout: its loop, optimizers, schedules, checkpoints and trackers; our rows and
loss."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vademecum.errors import DivergedError, RunError
from vademecum.stopping import Stop
from vademecum.training.adaptations import Adaptation, Schedule
from vademecum.training.batching import collate, collate_packed
from vademecum.training.checkpoints import is_whole, sealed
from vademecum.training.loss import ExampleLoss, example_losses, per_token, summed_loss, trained_tokens
from vademecum.training.packed import attend_as_before, attend_within_examples
from vademecum.training.protocol import TrainingData
from vademecum.training.ranks import Ranks
from vademecum.training.sharded import parts_trainer
from vademecum.training.watch import Watch

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import DataLoader
    from transformers import PreTrainedTokenizerBase
    from trl import SFTConfig, SFTTrainer

StepReport = Callable[[dict[str, Any]], None]
"""Receives the row of every optimizer step, before a checkpoint of that step is written."""
REPORTED = ("loss", "learning_rate", "grad_norm", "real_tokens", "slots", "examples")
UNTRAINED = {"step": 0, "real_tokens": 0, "slots": 0, "examples": 0}
"""The row of what is validated before the first step."""
MAX_SKIPPED_STEPS = 20
"""float16 skips a step while its loss scale is too high; halved from 2**16, it is below 1 after fewer than this."""


class StepRows:
    """Makes one row of every optimizer step, and refuses numbers that are not finite."""

    def __init__(self, report: StepReport) -> None:
        self._report = report
        self._held: dict[str, Any] | None = None
        self._skipped = 0

    def add(self, step: int, logs: dict[str, Any], *, skipped: bool, hold: bool) -> None:
        """Report step `step`, counted from 1, from what was logged of it; `hold` it back for its validation loss.

        `skipped` says that float16's loss scaler left the step out because a gradient overflowed.

        Raises:
            DivergedError: the loss or the gradient norm is not finite.
        """
        self._skipped = self._skipped + 1 if skipped else 0
        overflowed = skipped and self._skipped <= MAX_SKIPPED_STEPS
        _refuse_infinite("loss", logs["loss"], step)
        if not overflowed:
            _refuse_infinite("gradient norm", logs["grad_norm"], step)
        row = {"step": step, **{name: logs[name] for name in REPORTED}}
        if overflowed:
            row["grad_norm"] = None
        if hold:
            self._held = row
        else:
            self._report(row)

    def add_validation(self, step: int, losses: Sequence[ExampleLoss]) -> float:
        """Complete the row that was held back with the losses of all validation rows, and report it; their mean. Of the
        untrained model, `step` 0, that is all there is."""
        loss, row = per_token(losses), self._held if step else UNTRAINED
        self._held = None
        if row is not None:
            _refuse_infinite("validation loss", loss, step)
            self._report({**row, "validation_loss": loss, "validation_rows": [one._asdict() for one in losses]})
        return loss


def _refuse_infinite(what: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise DivergedError(
            f"the {what} of step {step} is {value!r}",
            hint="lower train.learning_rate, or set model.dtype to float32 or bfloat16",
        )


def build_trainer(
    model: Any,  # noqa: ANN401  PEFT's and transformers' models are untyped here
    tokenizer: "PreTrainedTokenizerBase",
    data: TrainingData,
    arguments: "SFTConfig",
    report: StepReport,
) -> "SFTTrainer":
    """An SFTTrainer that takes the micro-batches of `data.layout`, in its order, and reports every step.

    Its loss is the summed cross entropy of a step over the number of trained tokens in that step, so every trained
    token of a step weighs the same, whichever micro-batch it lies in. The trainable weights are float32 whatever the
    base is.
    """
    from datasets import Dataset
    from transformers.trainer_callback import PrinterCallback

    if data.layout.packed:
        attend_within_examples(model)
    loader = build_loader(data)
    # TRL wants datasets to look at; the rows come from the loader alone.
    train_ids, validation_ids = (
        Dataset.from_dict({"id": [row.id for row in rows]}) if rows else None
        for rows in (data.examples, data.validation)
    )
    trainer = _layout_trainer()(
        model,
        arguments,
        data_collator=loader.collate_fn,
        train_dataset=train_ids,
        eval_dataset=validation_ids,
        processing_class=tokenizer,
    )
    trainer.rows, trainer.loader, trainer.data = StepRows(report), loader, data
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_step_end_callback())
    trainer.floating_point_ops = lambda _: 0  # it would go through all parameters for every micro-batch
    trainer.model_accepts_loss_kwargs = True  # compute_loss divides by the whole step's tokens; do not divide again
    # The Trainer would write the tokenizer's special tokens into the model's configuration, and save both.
    trainer.processing_class = None
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # TRL makes QLoRA's bfloat16, which float16's scaler refuses
    return trainer


def _layout_trainer() -> Any:  # noqa: ANN401  untyped base
    class LayoutTrainer(parts_trainer()):  # type: ignore[misc]  # untyped base
        """`rows`, `loader` and `data` are set once it is built."""

        rows: StepRows
        loader: "DataLoader[Any]"
        data: TrainingData

        def get_train_dataloader(self) -> "DataLoader[Any]":
            return self.loader

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:  # noqa: ANN401
            schedule = self.data.schedule or Schedule(num_training_steps)
            scheduler = super().create_scheduler(schedule.planned_steps, optimizer)
            scheduler.lr_lambdas = [_along(schedule, planned) for planned in scheduler.lr_lambdas]
            return scheduler

        def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> tuple[Any, int]:  # noqa: ANN401
            batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
            return batches, self.data.ranks.total(sum(trained_tokens(batch["labels"]) for batch in batches))

        def compute_loss(
            self,
            model: Any,  # noqa: ANN401
            inputs: Any,  # noqa: ANN401
            return_outputs: bool = False,
            num_items_in_batch: int | None = None,
        ) -> "Tensor":
            # Gradients and logged losses of several processes are averaged, and the step's loss is their sum.
            return summed_loss(model, inputs) * self.data.ranks.size / max(1, num_items_in_batch or 0)

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            if "loss" in logs:
                step, skipped = self.state.global_step, _left_out(self.accelerator, logs["grad_norm"])
                logs = {**logs, **self.data.layout.step_counts(step - 1)}
                self.rows.add(step, logs, skipped=skipped, hold=self.control.should_evaluate)
            super().log(logs, start_time)

        def evaluate(self, *_: object, **__: object) -> dict[str, float]:
            data = self.data
            losses = example_losses(self.model, data.validation, data.pad_id, data.layout.worst_tokens)
            loss = self.rows.add_validation(self.state.global_step, losses)
            self.control.should_evaluate = False  # else the end of the epoch would evaluate the last step again
            self.log({"eval_loss": loss})
            return {"eval_loss": loss}

        def _save_checkpoint(self, model: Any, trial: Any) -> None:  # noqa: ANN401
            ranks, checkpoint = self.data.ranks, Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            with sealed(checkpoint) if ranks.lead else nullcontext():
                super()._save_checkpoint(model, trial)
                ranks.meet()  # every process puts its random state into it

        def create_model_card(self, *_: object, **__: object) -> None:
            """The adapter's card is written from the finished run, not from a checkpoint."""

        def _send_telemetry(self) -> None:
            """Nothing is sent anywhere unasked."""

    return LayoutTrainer


def _left_out(accelerator: Any, grad_norm: float) -> bool:  # noqa: ANN401
    """Whether float16's loss scaler left a step out. Fused optimizers are called all the same, and do so themselves."""
    scaled = accelerator.scaler is not None
    return bool(accelerator.optimizer_step_was_skipped) or (scaled and not math.isfinite(grad_norm))


def _along(schedule: Schedule, planned: Callable[[float], float]) -> Callable[[float], float]:
    return lambda step: planned(schedule.position(step))


def build_loader(data: TrainingData) -> "DataLoader[Any]":
    """A loader over `data.examples` whose batches are the layout's micro-batches, in order."""
    from torch.utils.data import DataLoader

    layout = data.share
    if layout.packed:
        join: Callable[..., dict[str, Any]] = partial(collate_packed, pad_id=data.pad_id)
    else:
        join = partial(collate, pad_id=data.pad_id, pad_to=layout.pad_to)
    return DataLoader(data.examples, batch_sampler=layout.micro_batches, collate_fn=join)  # type: ignore[arg-type]


def _step_end_callback() -> Any:  # noqa: ANN401  untyped base
    from transformers import TrainerCallback

    class StepEnd(TrainerCallback):  # type: ignore[misc]  # untyped base
        """The schedule goes on with every step, and the last one is always validated and saved."""

        def on_step_end(self, args: Any, state: Any, control: Any, lr_scheduler: Any, **_: object) -> Any:  # noqa: ANN401
            while lr_scheduler.last_epoch < state.global_step:  # the Trainer leaves it where float16 skips a step
                lr_scheduler.step()
            if state.global_step >= state.max_steps:
                control.should_evaluate = args.eval_strategy != "no"
                control.should_save = args.save_strategy != "no"
            return control

    return StepEnd()


class Adapted(Exception):  # noqa: N818  no error: ends training where it can go on in another way
    """Training must change its course; the last finished step is on disk."""

    def __init__(self, adaptation: Adaptation) -> None:
        super().__init__(adaptation.in_words())
        self.adaptation = adaptation


def boundary_callback(trainer: Any, stop: Stop, watch: Watch) -> Any:  # noqa: ANN401  untyped base
    """Ends training with a checkpoint of the last finished step: after the micro-batch in flight when it is asked to
    stop (of several processes: before a step, where they agree), before a step when it must change its course or
    cannot."""
    import torch
    from transformers import TrainerCallback

    ranks: Ranks = trainer.data.ranks
    on_cuda = trainer.data.device == "cuda"

    class Boundary(TrainerCallback):  # type: ignore[misc]  # untyped base
        """Weights, optimizer and schedule change at the end of a step only; the random state with every dropout."""

        def on_step_begin(self, *_: object, **__: object) -> None:
            self._cpu, self._cuda = torch.get_rng_state(), torch.cuda.get_rng_state() if on_cuda else None
            self._heed()
            try:
                adaptation = watch.look(trainer.state.global_step)
            except RunError:  # it cannot go on here, but where there is more memory it can
                self._save()
                raise
            if adaptation:
                self._save()
                raise Adapted(adaptation)

        def on_substep_end(self, *_: object, **__: object) -> None:
            if ranks.alone:
                self._heed()

        def _heed(self) -> None:
            if ranks.agree(lambda: stop.asked):
                self._save()
                ranks.agree(stop.check)

        def _save(self) -> None:
            step = trainer.state.global_step
            checkpoint = Path(trainer.args.output_dir) / f"checkpoint-{step}"
            if step > 0 and not ranks.agree(lambda: is_whole(checkpoint)):
                torch.set_rng_state(self._cpu)
                if self._cuda is not None:
                    torch.cuda.set_rng_state(self._cuda)
                trainer._save_checkpoint(trainer.model, trial=None)

    return Boundary()


@contextmanager
def unwrapped_after(model: Any) -> Iterator[None]:  # noqa: ANN401  PEFT's and transformers' models are untyped here
    """Take away afterwards what Accelerate (autocast), TRL (a fused head) and this package put over the `forward` of
    the modules inside, and the attention of packed rows."""
    modules = [module for module in model.modules() if "forward" not in vars(module)]
    mode = model.training
    try:
        yield
    finally:
        for module in modules:
            vars(module).pop("forward", None)
        attend_as_before(model)
        vars(model).pop("_is_accelerate_prepared", None)  # else a second training would go without autocast
        model.train(mode)
