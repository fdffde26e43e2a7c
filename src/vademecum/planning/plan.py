"""What a run will do and cost, decided once and obeyed afterwards."""

import math
from dataclasses import dataclass
from typing import Literal

from vademecum.config import BudgetConfig, RunConfig, TrainConfig
from vademecum.errors import ConfigError, OutOfMemoryError
from vademecum.hardware import Device
from vademecum.planning.choice import Candidate, Settings
from vademecum.planning.memory import MemoryPrediction, Quantization
from vademecum.planning.timing import STARTUP_SECONDS, Rates
from vademecum.records import Record
from vademecum.training import WARMUP_SHARE

RESERVE_SHARE = 0.05
"""Part of the budget that is not planned away: machines slow down, reports are written."""

MIN_STEPS = 4
TAKES_LESS = (
    "lower train.max_length or generate.max_new_tokens, set train.gradient_checkpointing = true or "
    "model.quantization = 'nf4', leave train.per_device_train_batch_size and generate.batch_size unset, or take a "
    "smaller base"
)


class Plan(Record):
    """The decisions and predictions of `plan.json`."""

    device: Device
    dtype: str
    dtype_reason: str
    base: str
    """The base model as reports name it."""
    base_digest: str
    train_pairs: int
    """That a pass goes through."""
    optimizer_steps: int
    full_steps: int
    """Steps that num_train_epochs would take."""
    ended_by: Literal["epochs", "budget", "max_steps"]
    warmup_steps: int
    eval_steps: int
    save_steps: int
    settings: Settings
    """What was chosen of what the configuration leaves open."""
    answer_rows: int
    """Answers written at a time."""
    answer_quantization: Quantization = "none"
    """Of the weights that answer."""
    candidates: list[Candidate]
    """What was chosen from, the fastest first; none when nothing is trained."""
    micro_batch_tokens: int
    """Slots of the largest micro-batch."""
    real_tokens: int
    """Of the steps that are planned."""
    processes: int = 1
    """That train together, each on its share of the micro-batches of a step."""
    memory: MemoryPrediction
    """Of one process."""
    process_bytes: int
    """What the process took before any weights, measured; on CUDA the context, an estimate."""
    memory_limit_bytes: int
    """Of each process that trains."""
    memory_limit_reason: str = ""
    disk_bytes: int
    """Of the run's directory when it is fullest."""
    rates: Rates
    measured: bool
    """Whether the rates come from a probe; else they are derived from the machine's matrix products."""
    predicted_seconds: dict[str, float]
    """Per stage."""

    @property
    def total_seconds(self) -> float:
        """The whole run."""
        return sum(self.predicted_seconds.values())

    @property
    def predicted_peak_bytes(self) -> dict[str, int]:
        """At the worst moments of training and of answering, the process counted in."""
        return {
            "train": self.process_bytes + self.memory.training_bytes if self.candidates else 0,
            "predict": self.process_bytes + self.memory.answering_bytes,
        }

    def apply(self, config: RunConfig) -> RunConfig:
        """The configuration with what the plan chose in it."""
        return apply_choice(config, self.settings, self.answer_rows, self.answer_quantization)


def apply_choice(
    config: RunConfig, settings: Settings, answer_rows: int, answer_quantization: Quantization = "none"
) -> RunConfig:
    """A configuration with nothing left open; what was set since the plan was made stays as it is set."""
    asked = config.generate.quantization
    answering = {
        "batch_size": config.generate.batch_size or answer_rows,
        "quantization": answer_quantization if asked == "auto" else asked,
    }
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"quantization": settings.quantization}),
            "train": settings.training(config.train),
            "generate": config.generate.model_copy(update=answering),
        }
    )


@dataclass(frozen=True)
class Workload:
    """What there is to do, in tokens and seconds, before the number of steps is chosen."""

    full_steps: int
    tokens_per_step: float
    """Real tokens, the mean over the layout."""
    validation_tokens: int
    """Of one validation loss."""
    answering: dict[str, float]
    """Predicted seconds per answering stage."""
    spent_seconds: float
    """Already gone: preparing, auditing, probing."""
    speedup: int = 1
    """How many times as fast as one process all that train together are."""


@dataclass(frozen=True)
class Steps:
    """How long training is, and how often it looks up."""

    optimizer_steps: int
    ended_by: Literal["epochs", "budget", "max_steps"]
    warmup_steps: int
    eval_steps: int
    save_steps: int
    train_seconds: float


def choose_steps(work: Workload, rates: Rates, train: TrainConfig, budget: BudgetConfig) -> Steps:
    """As many optimizer steps as were asked for, or as the budget leaves after answering.

    Raises:
        ConfigError: the budget does not leave time for training at all; says what would.
    """
    if rates.train_tokens_per_second == 0:  # no system needs an adapter
        return Steps(0, "epochs", warmup_steps=0, eval_steps=1, save_steps=1, train_seconds=0.0)
    step_seconds = work.tokens_per_step / (rates.train_tokens_per_second * work.speedup)
    evaluation_seconds = work.validation_tokens / rates.evaluation_tokens_per_second
    wanted = train.max_steps or work.full_steps
    ended_by: Literal["epochs", "budget", "max_steps"] = "max_steps" if train.max_steps else "epochs"
    steps = wanted
    if budget.minutes is not None:
        evaluations = 5 if train.eval_steps is None else 1 + math.ceil(wanted / train.eval_steps)
        fixed = work.spent_seconds + sum(work.answering.values()) + STARTUP_SECONDS + evaluations * evaluation_seconds
        affordable = int((budget.minutes * 60 * (1 - RESERVE_SHARE) - fixed) / step_seconds)
        if affordable < min(MIN_STEPS, wanted):
            enough = (fixed + min(MIN_STEPS, wanted) * step_seconds) / (1 - RESERVE_SHARE) / 60
            raise ConfigError(
                f"budget.minutes = {budget.minutes:g} leaves no time to train: answering and the rest take "
                f"{fixed / 60:.1f} minutes, one optimizer step {step_seconds:.1f} seconds",
                hint=f"set budget.minutes to {math.ceil(enough)} or more, or lower generate.test_pairs "
                "or generate.max_new_tokens",
            )
        if affordable < wanted:
            steps, ended_by = affordable, "budget"
    warmup_steps = round(steps * WARMUP_SHARE) if train.warmup_steps is None else train.warmup_steps
    if ended_by == "budget" and train.warmup_steps is not None:
        warmup_steps = round(train.warmup_steps * steps / wanted)  # else it might never end
    eval_steps = train.eval_steps or max(1, math.ceil(steps / 4))
    evaluations = 1 + math.ceil(steps / eval_steps)  # the first is of the untrained model
    return Steps(
        optimizer_steps=steps,
        ended_by=ended_by,
        warmup_steps=warmup_steps,
        eval_steps=eval_steps,
        save_steps=train.save_steps or max(1, math.ceil(steps / 10)),
        train_seconds=STARTUP_SECONDS + steps * step_seconds + evaluations * evaluation_seconds,
    )


def check_memory(rates: Rates, limit_bytes: int) -> None:
    """Refuse, before training, what took more memory in the probe than it may.

    The probe trains in the largest shape of the corpus. Of answers it writes a few tokens in the middle; their cache
    grows on.

    Raises:
        OutOfMemoryError: it does not fit; says what would take less.
    """
    if rates.peak_memory_bytes > limit_bytes:
        raise OutOfMemoryError(
            f"the probe took {rates.peak_memory_bytes / 1e9:.2f} GB, more than the limit of {limit_bytes / 1e9:.2f} GB",
            hint=TAKES_LESS,
            work="training" if rates.training_peak_bytes > limit_bytes else "answering",
        )
