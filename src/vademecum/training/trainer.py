"""Training: from rows and their layout to a trained adapter, a row per step and a summary; a few steps on trial."""

import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vademecum.config.sections import TrainConfig
from vademecum.cuda import is_out_of_memory, unused_gpu_hidden
from vademecum.errors import DivergedError, RunError
from vademecum.hardware import PeakMemory, release_memory
from vademecum.models import logits_change, stays_finite
from vademecum.training.adaptations import follow, halving
from vademecum.training.arguments import training_arguments
from vademecum.training.checkpoints import newest_checkpoint, step_of
from vademecum.training.engine import Adapted, boundary_callback, build_trainer, unwrapped_after
from vademecum.training.fused import fuse_adapters
from vademecum.training.protocol import StepTiming, TrainingData, TrainingSink, TrainingStatus, TrainingSummary
from vademecum.training.watch import Watch

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

JUDGED_TOKENS = 32
"""Of a train row, to see the adapter's effect: logits of all of a long row, twice, are not in the memory planned."""
__all__ = ["StepTiming", "TrainingData", "TrainingSink", "TrainingSummary", "probe_steps", "train"]


def train(
    model: "PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    data: TrainingData,
    config: TrainConfig,
    sink: TrainingSink,
    seed: int,
) -> TrainingSummary:
    """Train `model`'s adapter in place over the whole of `data.layout`, going on from the sink's newest checkpoint.

    Killed and called again with the same arguments, it ends with the same weights and the same rows as without the
    break, bit for bit on a CPU with the same number of threads, unless memory or time made it change its course: each
    change is an event of the summary. `seed` decides dropout; the order of the rows is the layout's.

    The summary's status is `diverged` when a loss, a gradient norm or the adapter is not finite, and `unchanged` when
    the adapter has no effect: the adapter is then worth nothing.

    Raises:
        StoppedError: the sink's `stop` was asked to; the last finished step is on disk as a checkpoint.
        RunError: a checkpoint cannot be written, or training does not fit into memory.
    """
    untrained = _adapter_weights(model)
    while True:
        layout, schedule = follow(data.layout, data.ranks.agree(sink.adaptations))
        try:
            history, remark = _attempt(
                model, tokenizer, replace(data, layout=layout, schedule=schedule), config, sink, seed
            )
            break
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if not data.ranks.alone:
                raise _out_of_memory(data) from None
            adaptation = halving(layout, sink.done())
        except Adapted as change:
            adaptation = change.adaptation
        sink.adapt(adaptation)
        sink.say(adaptation.in_words())
        _put_back(model, untrained)
        release_memory()
    status: TrainingStatus = "diverged" if remark else "completed"
    if not remark:
        status, remark = judge(model, data)
    return data.ranks.agree(lambda: summarise(history, sink, status, remark))


def _out_of_memory(data: TrainingData) -> RunError:
    """One process has left a step that the others are in, so they cannot go on together."""
    return RunError(
        f"rank {data.ranks.rank} of {data.ranks.size} is out of memory with micro-batches of up to "
        f"{data.layout.worst_tokens} tokens",
        hint="lower train.per_device_train_batch_size, or set train.gradient_checkpointing, and begin anew",
    )


def _attempt(
    model: "PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    data: TrainingData,
    config: TrainConfig,
    sink: TrainingSink,
    seed: int,
) -> tuple[list[dict[str, Any]], str]:
    """Train to the end, or to the first number that is not finite: what was logged, and what was found."""
    import torch

    def find_start() -> Path | None:
        checkpoint = newest_checkpoint(sink.checkpoints, sink.done(), sink.say)
        sink.truncate(step_of(checkpoint) if checkpoint else -1)
        return checkpoint

    checkpoint = data.ranks.agree(find_start)

    def report(row: dict[str, Any]) -> None:
        sink.step(row)
        sink.timing({"step": row["step"], "seconds": sink.seconds()})

    remark = ""
    with unwrapped_after(model), PeakMemory(), unused_gpu_hidden(data.device):
        fuse_adapters(model)
        arguments = training_arguments(config, data, sink.checkpoints, seed)
        arguments.eval_on_start = bool(data.validation) and checkpoint is None
        trainer = build_trainer(model, tokenizer, data, arguments, report)
        if trainer.accelerator.num_processes != data.ranks.size:  # each would train a part of the rows alone
            raise RunError(
                f"{data.ranks.size} processes were started, and Accelerate sees {trainer.accelerator.num_processes}",
                hint="start with torchrun; please report this",
            )
        trainer.add_callback(boundary_callback(trainer, sink.stop, Watch(data, sink.seconds)))
        if not data.ranks.lead:
            torch.manual_seed(seed + data.ranks.rank)  # else all would drop the same units
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except DivergedError as error:
            remark = error.message
    return trainer.state.log_history, remark


def judge(model: "PeftModel", data: TrainingData) -> tuple[TrainingStatus, str]:
    """Whether a trained adapter is finite and has an effect, and what was found if not."""
    weights = _adapter_weights(model)
    if not all(weight.isfinite().all() for weight in weights.values()):
        return "diverged", "the adapter that came out holds numbers that are not finite"
    if not stays_finite(model):
        return "diverged", f"base weight and update together are too large for {data.dtype}"
    if not any(weight.any() for name, weight in weights.items() if "lora_B" in name):
        return "unchanged", "the adapter's updates are all zero"
    change = logits_change(model, data.examples[0].input_ids[:JUDGED_TOKENS])
    if not math.isfinite(change):
        return "diverged", "with the adapter that came out the model's logits are not finite"
    return ("completed", "") if change else ("unchanged", "the adapter does not change a single logit of a train row")


def summarise(
    history: list[dict[str, Any]], sink: TrainingSink, status: TrainingStatus, remark: str
) -> TrainingSummary:
    """What a training came to, from what was logged of its steps (`loss`) and validations (`eval_loss`)."""
    finished, seconds = sink.done(), sink.seconds()
    steps = [entry for entry in history if "loss" in entry and entry["step"] <= finished]
    validation = [entry["eval_loss"] for entry in history if "eval_loss" in entry and entry["step"]]
    real_tokens, slots = (sum(entry[name] for entry in steps) for name in ("real_tokens", "slots"))
    last = [entry["loss"] for entry in steps[-max(1, len(steps) // 10) :]]
    return TrainingSummary(
        optimizer_steps=finished,
        real_tokens=real_tokens,
        slots=slots,
        padded_fraction=1 - real_tokens / slots if slots else 0.0,
        real_tokens_per_second=real_tokens / seconds,
        seconds=seconds,
        final_loss=sum(last) / len(last) if last else None,
        validation_loss=validation[-1] if validation else None,
        status=status,
        remark=remark,
        events=tuple(sink.adaptations()),
    )


def _adapter_weights(model: "PeftModel") -> dict[str, "Tensor"]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}


def _put_back(model: "PeftModel", weights: dict[str, "Tensor"]) -> None:
    """Make the adapter as it was, without gradients."""
    model.zero_grad(set_to_none=True)
    for name, weight in model.named_parameters():
        if name in weights:
            weight.data = weights[name].clone().to(weight.device)


def probe_steps(
    model: "PeftModel", data: TrainingData, config: TrainConfig, *, steps: int, seed: int
) -> list[StepTiming]:
    """Time `steps` throw-away optimizer steps, drawn by `seed` from `data.layout`; the adapter is as before afterwards.

    The step that holds the largest micro-batch is done twice before them, and not returned: the first time warms up and
    makes the optimizer's state, the second has that beside it, so that the peak memory is what the whole training will
    need.

    Raises:
        DivergedError: the untrained model's loss or gradient norm is not finite.
    """
    layout = data.layout.trial(steps, seed).select([0, *range(1 + steps)])
    trial = replace(data, layout=layout, validation=[])
    # Whether the learning rate suits is for training to find out.
    still = config.model_copy(update={"report_to": (), "learning_rate": 0.0})
    clock: list[float] = []
    before = _adapter_weights(model)
    with tempfile.TemporaryDirectory() as folder, unwrapped_after(model):
        arguments = training_arguments(still, trial, Path(folder), seed)
        arguments.set_save(strategy="no")
        fuse_adapters(model)
        try:
            build_trainer(
                model, _placeholder_tokenizer(), trial, arguments, lambda _: clock.append(time.perf_counter())
            ).train()
        finally:
            _put_back(model, before)
    return [
        StepTiming(seconds=clock[number] - clock[number - 1], real_tokens=layout.step_counts(number)["real_tokens"])
        for number in range(2, 2 + steps)
    ]


def _placeholder_tokenizer() -> "PreTrainedTokenizerBase":
    """Without one, TRL looks for a tokenizer by the model's name, on the hub too. No text is tokenized here."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"?": 0})))
