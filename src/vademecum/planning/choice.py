"""Which settings to train with: those that take the least time of those that fit the memory.

The examples of an optimizer step stay the same whatever is chosen, so the training is the same up to rounding. What the
user has set is never changed.
"""

from collections.abc import Callable, Sequence

from vademecum.config import ModelConfig, TrainConfig
from vademecum.errors import ConfigError
from vademecum.hardware import Device
from vademecum.models import can_quantize
from vademecum.planning.memory import MemoryLimit, Quantization
from vademecum.records import Record

MEMORY_MARGIN = 0.05
"""A prediction must stay below the limit by this share; benchmarks/plan_accuracy.py counts errors beyond it."""

MICRO_BATCH_SLOTS: dict[Device, int] = {"cpu": 1024, "cuda": 16_384, "mps": 4096}
"""Larger micro-batches are not faster: two AVX2 cores are busy with a few hundred tokens, a GPU wants thousands."""

HOST_SLOTS: dict[Device, int] = {"cpu": 24, "cuda": 2048, "mps": 512}
"""What a micro-batch costs beside its tokens, in tokens: Python, and the launching of kernels. The accelerators' are
estimates."""

CHECKPOINTING_COST = 1.5
"""Forward runs twice. With a frozen base forward and backward are one product each per layer: three for two. On a CPU
COMPACT_COST comes on top, 1.8 in all; benchmarks/plan_accuracy.py found, per token with both over without, 2.25
(width-256 8x512), 1.66 (width-256 32x512), 2.16 (smollm2-135m 2x512) and 1.41 (tinyllama 1x512): 1.84 in the geometric
mean."""

COMPACT_COST = 1.2
"""The system clears every page before it gives it out again: SmolLM2-135M ran 6.9 s per step instead of 5.7 on two AVX2
cores."""

QUANTIZATION_COST: dict[Quantization, dict[Device, float]] = {
    "none": {"cpu": 1.0, "cuda": 1.0, "mps": 1.0},
    "int8": {"cpu": 2.0, "cuda": 1.5, "mps": 10.0},
    "nf4": {"cpu": 2.0, "cuda": 1.2, "mps": 20.0},
}
"""Training time per token against unquantized weights. The CPU's from benchmarks/plan_accuracy.py, COMPACT_COST and
CHECKPOINTING_COST divided out: nf4 2.17 (width-256 4x256 against 8x256 in 32 bits), 1.61 (smollm2-135m 2x256) and 1.97
(width-256 8x256 with checkpointing); int8 1.98 (width-256 4x256 against 8x256). Weights are turned back in every pass
of a micro-batch, however few tokens it has, so below those 512 to 2,048 it costs more. The others are estimates."""

GIVES_UP = {"nf4": "4-bit weights while training", "int8": "8-bit weights while training"}


def fits(needed_bytes: int, limit_bytes: int) -> bool:
    """Whether a predicted peak stays below a limit with the margin."""
    return needed_bytes * (1 + MEMORY_MARGIN) <= limit_bytes


class Settings(Record):
    """What the plan may choose."""

    quantization: Quantization
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    compact: bool
    """Every freed tensor goes back to the system at once; see `hardware.compact_memory`."""

    def training(self, train: TrainConfig) -> TrainConfig:
        """`train` with these settings in it."""
        return train.model_copy(update=self.model_dump(exclude={"quantization", "compact"}))


class Candidate(Settings):
    """Settings, and what they cost."""

    training_bytes: int
    """Predicted at the worst moment, the process itself counted in."""
    relative_seconds: float
    """Predicted time over that of the fastest candidate."""
    gives_up: str
    """In words; empty when nothing."""
    fits: bool

    @property
    def settings(self) -> Settings:
        """The settings alone."""
        return Settings(**self.model_dump(include=set(Settings.model_fields)))


def tears_heap(quantization: Quantization, *, checkpointing: bool) -> bool:
    """Whether training must be compact on a CPU: activations that are computed again and weights that are turned back
    from few bits make so many holes in a heap that neither saves much there."""
    return checkpointing or quantization != "none"


def possible_settings(
    train: TrainConfig, model: ModelConfig, *, can_be_compact: bool, processes: int = 1
) -> list[Settings]:
    """All settings that the user leaves open, the largest micro-batches first.

    Several processes share the micro-batches of a step evenly.

    Raises:
        ConfigError: the micro-batches that are configured cannot be shared.
    """
    size, accumulation = train.batch_shape
    shapes = [(size, accumulation)]
    if train.per_device_train_batch_size is None and train.gradient_accumulation_steps is None:
        examples = train.examples_per_step
        shapes = [(examples // count, count) for count in range(1, examples + 1) if examples % count == 0]
    shapes = [(rows, count) for rows, count in shapes if count % processes == 0]
    if not shapes:
        raise ConfigError(
            f"{processes} processes cannot share the {size * accumulation} examples of an optimizer step in "
            f"micro-batches of {size}, each process as many as the others",
            hint="set train.gradient_accumulation_steps (or, leaving that open, train.examples_per_step) to a multiple "
            f"of {processes}, or start another number of processes",
        )
    switches = [False, True] if train.gradient_checkpointing is None else [train.gradient_checkpointing]
    quantizations: list[Quantization] = [model.quantization] if model.quantization != "auto" else ["none"]
    if model.quantization == "auto" and can_quantize():
        quantizations.append("nf4")
    return [
        Settings(
            quantization=quantization,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=count,
            gradient_checkpointing=switch,
            compact=compact,
        )
        for quantization in quantizations
        for switch in switches
        for compact in (
            [can_be_compact] if tears_heap(quantization, checkpointing=switch) or not can_be_compact else [False, True]
        )
        for rows, count in shapes
    ]


def weigh(
    settings: Sequence[Settings],
    slots_per_example: float,
    device: Device,
    training_bytes: Callable[[Settings], int],
    limit_bytes: int,
) -> list[Candidate]:
    """What each of the settings costs, the fastest first.

    Args:
        slots_per_example: mean tokens per example, padding counted.
        training_bytes: the predicted peak of some settings, the process itself counted in.
    """
    smallest = min(one.per_device_train_batch_size for one in settings)
    largest = max(smallest, MICRO_BATCH_SLOTS[device] / slots_per_example)
    kept = [one for one in settings if one.per_device_train_batch_size <= largest]
    seconds = {id(one): _relative_cost(one, slots_per_example, device) for one in kept}
    least = min(seconds.values())
    found = [
        Candidate(
            **one.model_dump(),
            training_bytes=(needed := training_bytes(one)),
            relative_seconds=seconds[id(one)] / least,
            gives_up=_gives_up(one),
            fits=fits(needed, limit_bytes),
        )
        for one in kept
    ]
    return sorted(found, key=lambda one: one.relative_seconds)


def choose_settings(candidates: Sequence[Candidate], limit: MemoryLimit, nearest: Callable[[], str]) -> Candidate:
    """The fastest candidate that fits.

    Args:
        nearest: says what would fit instead; asked only when nothing does.

    Raises:
        ConfigError: nothing fits.
    """
    fitting = [one for one in candidates if one.fits]
    if fitting:
        return fitting[0]
    least = min(candidates, key=lambda one: one.training_bytes)
    raise ConfigError(
        f"training does not fit into {limit.bytes / 1e9:.2f} GB ({limit.reason}): what takes least is "
        f"{in_words(least)} with {least.training_bytes / 1e9:.2f} GB, and a margin of {MEMORY_MARGIN:.0%} is kept",
        hint=nearest(),
    )


def _relative_cost(settings: Settings, slots_per_example: float, device: Device) -> float:
    size, accumulation = settings.per_device_train_batch_size, settings.gradient_accumulation_steps
    return (size * slots_per_example + HOST_SLOTS[device]) * accumulation * settings_cost(settings, device)


def settings_cost(settings: Settings, device: Device) -> float:
    """Time per token over that of unquantized weights without checkpointing."""
    cost = QUANTIZATION_COST[settings.quantization][device]
    cost *= CHECKPOINTING_COST if settings.gradient_checkpointing else 1.0
    return cost * (COMPACT_COST if settings.compact else 1.0)


def _gives_up(settings: Settings) -> str:
    given = [GIVES_UP[settings.quantization]] if settings.quantization != "none" else []
    given += ["activations are computed twice"] if settings.gradient_checkpointing else []
    return ", ".join([*given, *(["memory is cleared anew"] if settings.compact else [])])


def in_words(settings: Settings) -> str:
    """Such as `2 x 4 examples per step and gradient checkpointing`."""
    size, accumulation = settings.per_device_train_batch_size, settings.gradient_accumulation_steps
    words = [f"{size} x {accumulation} examples per step"]
    words += [str(settings.quantization)] if settings.quantization != "none" else []
    words += ["gradient checkpointing"] if settings.gradient_checkpointing else []
    return " and ".join(words)
