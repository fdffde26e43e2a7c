"""Training: from rows and their layout to a trained adapter, a row per step and a summary; a few steps on trial."""

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from vademecum.config.sections import TrainConfig
from vademecum.training.arguments import training_arguments
from vademecum.training.checkpoints import newest_checkpoint, step_of
from vademecum.training.engine import build_trainer, stopping_callback, unwrapped_after
from vademecum.training.fused import fuse_adapters
from vademecum.training.protocol import StepTiming, TrainingData, TrainingSink, TrainingSummary

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase
    from transformers.trainer_callback import TrainerState

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
    break, bit for bit on a CPU with the same number of threads. `seed` decides dropout; the order of the rows is the
    layout's.

    Raises:
        DivergedError: a loss or gradient norm is not finite; nothing of that step was written, earlier checkpoints
            stay.
        StoppedError: the sink's `stop` was asked to; the last finished step is on disk as a checkpoint.
        RunError: a checkpoint cannot be written.
    """
    arguments = training_arguments(config, data, sink.checkpoints, seed)
    checkpoint = newest_checkpoint(sink.checkpoints, sink.done(), sink.say)
    done = step_of(checkpoint) if checkpoint else 0
    sink.truncate(done)
    began = time.monotonic()

    def report(row: dict[str, Any]) -> None:
        sink.step(row)
        sink.timing({"step": row["step"], "seconds": time.monotonic() - began})

    with unwrapped_after(model):
        fuse_adapters(model)
        trainer = build_trainer(model, tokenizer, data, arguments, report)
        trainer.add_callback(stopping_callback(trainer, sink.stop))
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return _summarise(data, trainer.state, done, time.monotonic() - began)


def _summarise(data: TrainingData, state: "TrainerState", done: int, seconds: float) -> TrainingSummary:
    layout = data.layout
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    validation = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]
    last = losses[-max(1, len(losses) // 10) :]
    this_sitting = sum(layout.step_counts(step)["real_tokens"] for step in range(done, layout.steps))
    return TrainingSummary(
        optimizer_steps=layout.steps,
        real_tokens=layout.real_tokens,
        slots=layout.slots,
        padded_fraction=layout.padded_fraction,
        real_tokens_per_second=this_sitting / seconds,
        seconds=seconds,
        final_loss=sum(last) / len(last),
        validation_loss=validation[-1] if validation else None,
        status="completed",
    )


def probe_steps(
    model: "PeftModel", data: TrainingData, config: TrainConfig, *, steps: int, seed: int
) -> list[StepTiming]:
    """Time `steps` throw-away optimizer steps, drawn by `seed` from `data.layout`; the adapter is as before afterwards.

    A step more is done first to warm up, and not returned: the one that holds the largest micro-batch, so that the peak
    memory of the timings is what the whole training will need.

    Raises:
        DivergedError: a loss or gradient norm is not finite.
    """
    import torch

    layout = data.layout
    worst = max(range(len(layout.micro_batches)), key=lambda number: layout.slots_of(layout.micro_batches[number]))
    chosen = Random(seed).choices(range(layout.steps), k=steps)
    trial = replace(data, layout=layout.select([worst // layout.accumulation, *chosen]), validation=[])
    clock: list[float] = []
    peaks: list[int] = []

    def report(_: dict[str, Any]) -> None:
        clock.append(time.perf_counter())
        peaks.append(_peak_memory_bytes(data.device))

    before = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
    with tempfile.TemporaryDirectory() as folder, unwrapped_after(model):
        arguments = training_arguments(config.model_copy(update={"report_to": ()}), trial, Path(folder), seed)
        arguments.set_save(strategy="no")
        fuse_adapters(model)
        try:
            build_trainer(model, _placeholder_tokenizer(), trial, arguments, report).train()
        finally:
            model.zero_grad(set_to_none=True)
            with torch.no_grad():
                for name, weight in model.named_parameters():
                    if name in before:
                        weight.data = before[name].to(weight.device)
    return [
        StepTiming(
            seconds=clock[number] - clock[number - 1],
            real_tokens=counts["real_tokens"],
            slots=counts["slots"],
            peak_memory_bytes=peaks[number],
        )
        for number in range(1, steps + 1)
        for counts in (trial.layout.step_counts(number),)
    ]


def _peak_memory_bytes(device: str) -> int:
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _placeholder_tokenizer() -> "PreTrainedTokenizerBase":
    """Without one, TRL looks for a tokenizer by the model's name, on the hub too. No text is tokenized here."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"?": 0})))
