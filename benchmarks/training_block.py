"""One block of a training benchmark: a few steps of one arm, in a process of its own.

A process of its own, because then nothing of another arm is left behind (wrappers over the model, memory that the
allocator keeps), and because an arm that gets nowhere can be ended. The first step of a block warms up and is not
counted. The matrix-product rate is measured in the same process, before and after the steps.

| arm | what trains |
|---|---|
| `paper` | our `train` as in the preset `paper`: batch 1, padded, checkpointing, dropout 0.1, accumulation 4 |
| `paper-trl` | TRL's SFTTrainer, which the paper used, with those settings; fp32 where bf16 is emulated |
| `trl` | TRL's SFTTrainer with nothing set but the adapter and the number of steps: batch 8, bf16, checkpointing |
| `trl-fp32` | the same with `bf16=False`, for machines where bf16 is emulated |
| `grouped` | our `train` with its default batching |
| `packed` | our `train` with packed rows |

In a round all arms are timed on the rows that `grouped` draws, in as many steps as these take: rows are of very unlike
lengths, and an arm that pads is the faster the longer its rows are. For the same reason the rows of a round are, of
many draws, those whose mean length is nearest to that of all rows: a few steps drawn as they come were worth a ratio of
2.7 in one round and of 7.3 in another. Only `packed` draws its own: it pads nothing, and its rows must fit one another.
"""

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

from benchmarks.workload import Subject, Workload, count_trained, matrix_product_rate

from vademecum.config import LoraConfig, load_config
from vademecum.config.sections import TrainConfig
from vademecum.hardware import PeakMemory
from vademecum.models import attach_adapter, peft_config
from vademecum.planning import Shape
from vademecum.stopping import Stop
from vademecum.training import Example, Layout, TrainingData, lay_out, train
from vademecum.training.adaptations import Adaptation

Arm = Literal["paper", "paper-trl", "trl", "trl-fp32", "grouped", "packed"]
ARMS: tuple[Arm, ...] = ("paper", "paper-trl", "trl", "trl-fp32", "grouped", "packed")
EXAMPLES_PER_STEP = 4
"""Of `grouped` and, about, of `packed`, unless a micro-batch holds more: as many as the paper's."""
TRL_EXAMPLES_PER_STEP = 8
"""Its default; a multiple of the paper's."""
DRAWS = 2000
"""Of a round's rows, to take the one that is most like all rows."""
NEVER = 1_000_000


@dataclass(frozen=True)
class Block:
    """What one process does."""

    arm: Arm
    subject: Subject
    workload: Workload
    dtype: str
    device: str
    steps: int
    """Timed ones, of `grouped`."""
    seed: int
    """Decides which rows are trained on."""
    micro_batch: int
    """Examples per micro-batch of our own arms."""
    max_length: int
    """Of our own arms and the paper's; TRL keeps its default."""

    @property
    def config(self) -> tuple[TrainConfig, LoraConfig]:
        """The settings of an arm that is trained by our own `train`."""
        if self.arm in ("paper", "paper-trl"):
            preset = load_config("paper")
            return preset.train.model_copy(update={"max_length": self.max_length}), preset.lora
        packed = self.arm == "packed"
        size = max(1, self.micro_batch // 2) if packed else self.micro_batch  # about two examples to a packed row
        config = TrainConfig(
            batching="packed" if packed else "grouped",
            max_length=self.max_length,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=max(1, EXAMPLES_PER_STEP // self.micro_batch),
            num_train_epochs=1,
        )
        return config, LoraConfig()

    def lay_out(self, examples: list[Example]) -> Layout:
        """A pass over all rows, as it would be trained."""
        return lay_out([example.length for example in examples], self.config[0], seed=self.seed)

    def trial(self, examples: list[Example]) -> Layout:
        """A step that warms up, and the timed ones."""
        if self.arm in ("grouped", "packed"):
            return self._draw(self.lay_out(examples))
        rows, per_step = self.timed_rows(examples), math.prod(self.config[0].batch_shape)
        steps = max(1, len(rows) // per_step)
        whole = (rows * per_step)[: steps * per_step]
        return replace(self.lay_out(examples), micro_batches=[[row] for row in [*whole[:per_step], *whole]])

    def timed_rows(self, examples: list[Example]) -> list[int]:
        """Of a round: those of the timed steps of `grouped`."""
        return _timed(self._draw(replace(self, arm="grouped").lay_out(examples)))

    def _draw(self, layout: Layout) -> Layout:
        """A step that warms up, and timed ones whose rows are as long in the mean as all are, and fill TRL's steps."""
        wanted = fmean(layout.lengths[row] for rows in layout.micro_batches for row in rows)

        def strangeness(trial: Layout) -> tuple[int, float]:
            rows = _timed(trial)
            return len(rows) % TRL_EXAMPLES_PER_STEP, abs(fmean(trial.lengths[row] for row in rows) - wanted)

        seeds = range(self.seed * DRAWS, (self.seed + 1) * DRAWS)
        return min((layout.trial(self.steps, seed) for seed in seeds), key=strangeness)


def _timed(trial: Layout) -> list[int]:
    """All rows but those of the first step."""
    return [row for number in range(1, trial.steps) for rows in trial.step(number) for row in rows]


class Rate(NamedTuple):
    """The matrix product's."""

    flops: float


class Begun(NamedTuple):
    """A step of so many real tokens has begun."""

    real_tokens: int


class Step(NamedTuple):
    """A step is done."""

    seconds: float
    real_tokens: int
    slots: int
    flops: int
    """That its real tokens needed."""


class Peak(NamedTuple):
    """The most memory that the steps held, weights and libraries included."""

    bytes: int


Message = Rate | Begun | Step | Peak
Tell = Callable[[Message], None]


def run_block(block: Block, connection: Connection) -> None:
    """Do a block and tell through `connection` what happens as it happens."""
    tell: Tell = connection.send
    if "trl" in block.arm:
        _train_with_trl(block, tell)
    else:
        train_with_ours(block, tell)
    connection.close()


@dataclass
class Clock:
    """A sink of `train` that keeps nothing but the time of every step."""

    checkpoints: Path
    stop: Stop
    layout: Layout
    needed: list[int]
    """Operations of every row."""
    tell: Tell
    began: float = field(default_factory=time.perf_counter)
    last: float = 0.0
    finished: int = 0
    changes: list[Adaptation] = field(default_factory=list)

    def done(self) -> int:
        """Every block begins afresh."""
        return self.finished

    def seconds(self) -> float:
        """Since the block began."""
        return time.perf_counter() - self.began

    def adaptations(self) -> list[Adaptation]:
        """None, unless memory ran out."""
        return self.changes

    def adapt(self, adaptation: Adaptation) -> None:
        """Remember it for this block."""
        self.changes.append(adaptation)

    def say(self, text: str) -> None:
        """Nobody listens."""

    def truncate(self, step: int) -> None:
        """Nothing is kept."""

    def step(self, row: dict[str, Any]) -> None:
        """The clock is read right after."""
        self.finished += 1

    def timing(self, row: dict[str, Any]) -> None:
        """Tell what the step took; the first one warms up."""
        number, seconds = row["step"] - 1, row["seconds"] - self.last
        self.last = row["seconds"]
        if number > 0:
            counts = self.layout.step_counts(number)
            flops = sum(self.needed[index] for rows in self.layout.step(number) for index in rows)
            self.tell(Step(seconds, counts["real_tokens"], counts["slots"], flops))
        if number + 1 < self.layout.steps:
            self.tell(Begun(self.layout.step_counts(number + 1)["real_tokens"]))


def train_with_ours(block: Block, tell: Tell) -> None:
    """Train by our own `train`: the arms `paper`, `grouped` and `packed`."""
    config, lora = block.config
    tokenizer = block.subject.tokenizer
    examples = block.workload.examples(block.subject, config)
    layout = block.trial(examples)
    model = attach_adapter(block.subject.load(block.dtype, block.device), lora, block.seed)
    shape = Shape.of(model)
    data = TrainingData(
        examples=examples,
        validation=[],
        layout=layout,
        pad_id=int(tokenizer.pad_token_id),
        dtype=block.dtype,
        device=block.device,
        save_steps=NEVER,
        eval_steps=NEVER,
    )
    needed = [shape.training_flops(row.length, count_trained(row.labels)) for row in examples]
    tell(Rate(matrix_product_rate(block.dtype, block.device)))
    with tempfile.TemporaryDirectory() as folder, PeakMemory() as peak:
        train(model, tokenizer, data, config, Clock(Path(folder), Stop(), layout, needed, tell), block.seed)
    tell(Peak(peak.peak_bytes))
    tell(Rate(matrix_product_rate(block.dtype, block.device)))


def trl_arguments(block: Block) -> tuple[dict[str, Any], LoraConfig]:
    """What an arm says to SFTConfig beyond the number of steps, and its adapter."""
    if block.arm == "paper-trl":
        config, lora = block.config
        given = {
            "per_device_train_batch_size": config.per_device_train_batch_size,
            "gradient_accumulation_steps": config.gradient_accumulation_steps,
            "max_length": config.max_length,
            "pad_to_multiple_of": config.max_length,
            "gradient_checkpointing": config.gradient_checkpointing,
            "learning_rate": config.learning_rate,
            "lr_scheduler_type": config.lr_scheduler_type,
            "warmup_steps": config.warmup_steps,
            "optim": config.optim,
            "bf16": block.dtype == "bfloat16",
            "fp16": block.dtype == "float16",
        }
        return given, lora
    return {"bf16": False} if block.arm == "trl-fp32" else {}, LoraConfig()


def _train_with_trl(block: Block, tell: Tell) -> None:
    """As TRL's quick start does it, and quiet about it."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    given, lora = trl_arguments(block)
    batches_per_step = given.get("gradient_accumulation_steps", 1)
    rows_per_step = batches_per_step * given.get("per_device_train_batch_size", TRL_EXAMPLES_PER_STEP)
    rows = block.timed_rows(block.workload.examples(block.subject, block.config[0]))
    steps = max(1, len(rows) // rows_per_step)
    # Drawn without order: the step that warms up is as good as any other.
    chosen = [*rows[:rows_per_step], *rows]
    model = block.subject.load(block.dtype, block.device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model,
            SFTConfig(
                folder,
                max_steps=steps + 1,
                use_cpu=block.device == "cpu",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                **given,
            ),
            train_dataset=Dataset.from_list(block.workload.trl_rows(block.subject, chosen)),
            processing_class=block.subject.tokenizer,
            peft_config=peft_config(lora),
        )
        batches = _Batches(trainer.data_collator, Shape.of(trainer.model), batches_per_step)
        trainer.data_collator = batches
        trainer.add_callback(_timing_callback(batches, block.device, tell))
        tell(Rate(matrix_product_rate(block.dtype, block.device)))
        with PeakMemory() as peak:
            trainer.train()
        tell(Peak(peak.peak_bytes))
        tell(Rate(matrix_product_rate(block.dtype, block.device)))


class _Batches:
    """Notes what TRL's collator makes; steps take their batches in order."""

    def __init__(self, collate: Callable[..., dict[str, Any]], shape: Shape, per_step: int) -> None:
        self._collate = collate
        self._shape = shape
        self._per_step = per_step
        self._made: list[Step] = []
        """Of every batch."""

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = self._collate(rows)
        lengths = [len(row["input_ids"]) for row in rows]
        needed = (self._shape.training_flops(len(row["input_ids"]), count_trained(row["labels"])) for row in rows)
        self._made.append(Step(0.0, sum(lengths), batch["input_ids"].numel(), sum(needed)))
        return batch

    def step(self, number: int, seconds: float = 0.0) -> Step:
        """What the batches of a step, counted from 0, come to."""
        made = self._made[number * self._per_step : (number + 1) * self._per_step]
        real_tokens, slots, flops = (sum(counts) for counts in zip(*(batch[1:] for batch in made), strict=True))
        return Step(seconds, real_tokens, slots, flops)


def _timing_callback(batches: _Batches, device: str, tell: Tell) -> Any:  # noqa: ANN401  untyped base
    import torch
    from transformers import TrainerCallback

    class Timing(TrainerCallback):  # type: ignore[misc]  # untyped base
        """From the end of one step to the end of the next, so that collating counts."""

        last = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: object) -> None:  # noqa: ANN401
            tell(Begun(batches.step(state.global_step).real_tokens))

        def on_step_end(self, args: Any, state: Any, control: Any, **_: object) -> None:  # noqa: ANN401
            if device == "cuda":
                torch.cuda.synchronize()
            now = time.perf_counter()
            if state.global_step > 1:
                tell(batches.step(state.global_step - 1, now - self.last))
            self.last = now

    return Timing()
