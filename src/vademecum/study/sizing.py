"""How large every trial is: decided once, from one probe and the budget of the whole study."""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from vademecum.config import RunConfig
from vademecum.config.sections import ModelConfig, PositiveInt
from vademecum.errors import ConfigError
from vademecum.planning import Plan
from vademecum.planning.plan import RESERVE_SHARE
from vademecum.records import Record
from vademecum.study.design import Design, Trial

STARTUP_SECONDS = 30.0
"""Of a trial's process: imports, loading the model twice, tokenizing; two AVX2 cores with SmolLM2-135M."""
FEWEST_PAIRS = 16
OWN_STAGES = ("train", "predict/tuned")
"""What every trial does itself; the rest is done once for all."""
SPEED = {
    "model": tuple(ModelConfig.model_fields),
    "train": ("max_length", "batching", "gradient_checkpointing"),
    "generate": ("max_new_tokens",),
}
"""Section → settings that make a trial much faster or slower. The plan knows the baseline's speed alone."""


class Sizing(Record):
    """What all trials have in common; `sizing.json`."""

    train_pairs: PositiveInt | None
    """The same subset for all; None: every train pair."""
    overrides: tuple[str, ...]
    """What the shared plan chose, fixed for all trials."""
    warmup_steps: dict[str, int]
    """Variant → warmup in proportion to its steps; empty where the declared counts stand."""
    optimizer_steps: dict[str, int]
    """Variant → steps."""
    minutes: dict[str, float]
    """Trial → what it is predicted to take alone; of those in `other_speed` at the baseline's speed."""
    other_speed: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Variants whose time is not predicted → the settings that make their speed another than the baseline's."""
    lanes: int = 1
    """Trials that run side by side on this machine without slowing one another down."""
    shared_minutes: float
    """Predicted for the corpus, the plan and the answers that all trials share."""

    @property
    def total_minutes(self) -> float:
        """Of the whole study, one trial after another."""
        return self.shared_minutes + sum(self.minutes.values())

    @property
    def caveat(self) -> str:
        """What the minutes do not know, as a sentence; empty where they know all."""
        named = "; ".join(f"{variant} ({', '.join(settings)})" for variant, settings in self.other_speed.items())
        return named and f"Not predicted is the time of {named}: at the baseline's speed it stands in the minutes."

    def minutes_on(self, machines: int) -> float:
        """Of the whole study on so many machines like this one: what is shared, then each trial where a lane is free,
        the longest first."""
        busy = [0.0] * (machines * self.lanes)
        for minutes in sorted(self.minutes.values(), reverse=True):
            heapq.heappushpop(busy, busy[0] + minutes)
        return self.shared_minutes + max(busy)


def size_study(design: Design, plan: Plan, lanes: int = 1, before: Sizing | None = None) -> Sizing:
    """Decide the size of every trial from the plan of the shared run; what was decided `before` stands.

    `lanes` is how many trials run side by side without slowing one another down: accelerators, not cores.

    The time of a trial is linear in the train subset's size N: STARTUP_SECONDS, its answers and validation losses as
    the plan predicts them, and N x epochs x mean tokens per pair over the measured rate. N is the largest that fits.

    Raises:
        ConfigError: the budget does not hold the declared subset, or not even a small one; or a warmup would never end
            and nothing says what it is a proportion of.
    """
    pinned = _pinned(design.baseline, plan)
    trials = design.trials(before.overrides if before else pinned)
    other_speed = _other_speed(trials)
    work = _Work.of(design.baseline, plan)
    if before is None:
        _check_speed(design, other_speed)
    if before:
        pairs = before.train_pairs
    else:
        pairs = design.baseline.train.max_pairs or _affordable_pairs(design, work, trials, lanes)
    steps = {trial.variant: work.steps(trial.config, trial.config.train.max_pairs or pairs) for trial in trials}
    warmups = _warmups(design, trials, steps, scaled=None if before is None else bool(before.warmup_steps))
    seconds = {trial.name: work.seconds(trial.config, steps[trial.variant]) for trial in trials}
    if before is None:
        _check_minutes(design, work.shared_seconds + sum(seconds.values()) / lanes, pairs or plan.train_pairs)
    return Sizing(
        train_pairs=pairs,
        overrides=before.overrides if before else (*pinned, *([f"train.max_pairs={pairs}"] if pairs else [])),
        warmup_steps=warmups,
        optimizer_steps=steps,
        minutes={name: value / 60 for name, value in seconds.items()},
        other_speed=other_speed,
        lanes=lanes,
        shared_minutes=work.shared_seconds / 60,
    )


def _pinned(baseline: RunConfig, plan: Plan) -> tuple[str, ...]:
    """What the plan chose of what the baseline leaves open, as overrides."""
    chosen = plan.settings
    found = [
        f"model.device={plan.device}",
        f"model.dtype={plan.dtype}",
        f"generate.batch_size={plan.answer_rows}",
    ]
    if baseline.generate.quantization == "auto":  # else a trial that finds less memory free would choose another
        found.append(f"generate.quantization={plan.answer_quantization}")
    if baseline.model.quantization == "auto":
        found.append(f"model.quantization={chosen.quantization}")
    if baseline.train.gradient_checkpointing is None:
        found.append(f"train.gradient_checkpointing={str(chosen.gradient_checkpointing).lower()}")
    if baseline.train.per_device_train_batch_size is None and baseline.train.gradient_accumulation_steps is None:
        found.append(f"train.per_device_train_batch_size={chosen.per_device_train_batch_size}")
    return tuple(found)


@dataclass(frozen=True)
class _Work:
    """What the plan of the shared run says of trials of any size."""

    plan: Plan
    rows_per_pair: float
    """Rows of the layout per train pair: below one where rows are packed, above one where long answers are split."""
    short: bool
    """Whether the plan's pairs are all that there are."""

    @classmethod
    def of(cls, baseline: RunConfig, plan: Plan) -> "_Work":
        train = plan.apply(baseline).train
        rows = plan.full_steps * math.prod(train.batch_shape) / train.num_train_epochs
        # A pass is rounded to whole steps; that is no splitting or packing.
        exact = abs(rows - plan.train_pairs) < math.prod(train.batch_shape)
        short = train.max_pairs is None or plan.train_pairs < train.max_pairs
        return cls(plan, 1.0 if exact else rows / plan.train_pairs, short)

    @property
    def shared_seconds(self) -> float:
        """Of what is done once."""
        return sum(seconds for stage, seconds in self.plan.predicted_seconds.items() if stage not in OWN_STAGES)

    @property
    def seconds_per_pair(self) -> float:
        """Of one pass over it."""
        plan, settings = self.plan, self.plan.settings
        rows = plan.optimizer_steps * settings.per_device_train_batch_size * settings.gradient_accumulation_steps
        return plan.real_tokens / rows / plan.rates.train_tokens_per_second * self.rows_per_pair

    def steps(self, config: RunConfig, pairs: int | None) -> int:
        """Optimizer steps of a trial on so many pairs, or on all; no more than there are."""
        train = config.train
        if pairs is None or self.short:
            pairs = min(pairs or self.plan.train_pairs, self.plan.train_pairs)
        rows = train.num_train_epochs * pairs * self.rows_per_pair
        return train.max_steps or max(1, round(rows / math.prod(train.batch_shape)))

    def seconds(self, config: RunConfig, steps: int) -> float:
        """Of a trial alone; the validation losses are taken four times and at the end, whatever the steps."""
        plan = self.plan
        beside = plan.predicted_seconds["train"] - plan.real_tokens / plan.rates.train_tokens_per_second
        training = steps * math.prod(config.train.batch_shape) / self.rows_per_pair * self.seconds_per_pair
        return STARTUP_SECONDS + max(0.0, beside) + plan.predicted_seconds.get("predict/tuned", 0.0) + training


def _other_speed(trials: Sequence[Trial]) -> dict[str, tuple[str, ...]]:
    """Variant → in which settings of SPEED it differs from the baseline, whose trials come first."""
    baseline, found = trials[0].config, {}
    for trial in trials:
        differing = tuple(
            f"{section}.{key}"
            for section, keys in SPEED.items()
            for key in keys
            if getattr(getattr(trial.config, section), key) != getattr(getattr(baseline, section), key)
        )
        if differing:
            found[trial.variant] = differing
    return found


def _check_speed(design: Design, other_speed: dict[str, tuple[str, ...]]) -> None:
    """Refuse to promise minutes of which a part is not known."""
    if other_speed and design.study.minutes is not None:
        variant, settings = next(iter(other_speed.items()))
        raise ConfigError(
            f"minutes = {design.study.minutes:g} cannot be kept: the plan measures the baseline's speed, and {variant} "
            f"has another, by {', '.join(settings)}",
            hint="leave minutes unset and give train.max_pairs or train.max_steps in `set`, for all; or make a study "
            "of those variants, with one of them as its baseline",
        )


def _affordable_pairs(design: Design, work: _Work, trials: Sequence[Trial], lanes: int) -> int | None:
    """The largest subset for which the study ends in time; None where all pairs do."""
    if design.study.minutes is None:
        return None
    # A waiting lane at the end: the last trials do not end together.
    available = design.study.minutes * 60 * (1 - RESERVE_SHARE) - work.shared_seconds
    fixed = sum(work.seconds(trial.config, trial.config.train.max_steps or 0) for trial in trials) / lanes
    # Where the steps are given, the number of pairs changes nothing.
    passes = sum(trial.config.train.num_train_epochs for trial in trials if trial.config.train.max_steps is None)
    if not passes:
        return None
    per_pair = passes * work.seconds_per_pair / lanes
    pairs = int((available - fixed) / per_pair)
    if pairs < FEWEST_PAIRS:
        enough = (fixed + FEWEST_PAIRS * per_pair + work.shared_seconds) / 60 / (1 - RESERVE_SHARE)
        raise ConfigError(
            f"minutes = {design.study.minutes:g} holds no {FEWEST_PAIRS} train pairs for each of {len(trials)} trials: "
            f"answering and starting them takes {fixed / 60:.0f} minutes",
            hint=f"set minutes to {math.ceil(enough)} or more, or cut baseline_seeds, then levels, or "
            "generate.test_pairs",
        )
    return None if pairs >= work.plan.train_pairs else pairs


def _check_minutes(design: Design, seconds: float, pairs: int) -> None:
    """Refuse a study whose own number of pairs does not end in time."""
    minutes = design.study.minutes
    if minutes is not None and seconds > minutes * 60:
        raise ConfigError(
            f"with {pairs} train pairs per trial the study takes {seconds / 60:.0f} minutes, and minutes = {minutes:g}",
            hint="leave train.max_pairs and train.max_steps unset, so that the subset follows from the minutes, or "
            "lower them; or cut baseline_seeds, then levels",
        )


def _warmups(design: Design, trials: Sequence[Trial], steps: dict[str, int], *, scaled: bool | None) -> dict[str, int]:
    """Warmups in proportion, where one would not end, or where they were `scaled` before; none: the counts stand."""
    declared = {trial.variant: trial.config.train.warmup_steps for trial in trials}
    endless = [name for name, warmup in declared.items() if warmup is not None and warmup >= steps[name]]
    if scaled is False or (scaled is None and not endless):
        if endless:
            raise ConfigError(
                f"the warmup of {', '.join(endless)} would not end, and the study was sized with unscaled counts",
                hint="choose another directory with --out for a study that has these variants",
            )
        return {}
    reference = design.study.reference_steps
    if reference is None:
        raise ConfigError(
            f"the warmup of {', '.join(endless)} would not end: {declared[endless[0]]} steps of {steps[endless[0]]}",
            hint="set reference_steps to the number of steps that the warmup counts were meant for",
        )
    return {name: round(warmup * steps[name] / reference) for name, warmup in declared.items() if warmup is not None}
