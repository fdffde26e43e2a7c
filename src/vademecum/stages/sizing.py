"""What the plan goes by: the rows that will be trained on, the prompts that will be answered, and the settings for both
that fit the memory."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from vademecum.config import RunConfig, TrainConfig
from vademecum.cuda import shares_heads
from vademecum.errors import ConfigError
from vademecum.generation import Prompt, chunks
from vademecum.hardware import Device, can_compact_memory, check_device, choose_dtype, probe_hardware
from vademecum.models import can_quantize
from vademecum.planning import (
    AnsweringShape,
    Candidate,
    MemoryLimit,
    MemoryPrediction,
    Quantization,
    Settings,
    TrainingShape,
    apply_choice,
    choose_settings,
    memory_limit,
    possible_settings,
    predict_memory,
    process_bytes,
    weigh,
)
from vademecum.planning.choice import MEMORY_MARGIN, fits, in_words
from vademecum.sources import cache_folder
from vademecum.stages.answer import decoding_for, tried_systems
from vademecum.stages.material import Base, Pairs, prompts_for, subset, training_rows
from vademecum.stages.road import Road
from vademecum.training import ALONE, Example, Layout, Ranks, audit_supervision, check_audit, lay_out

HISTOGRAM_BINS = 32
ANSWER_ROWS: dict[Device, int] = {"cpu": 64, "cuda": 256, "mps": 64}
"""Most answers written at a time, where the configuration does not say."""
LENGTH_PARTS, SHORTEST = (1, 2, 4), 32
"""Of train.max_length, and in tokens: how much shorter rows are tried, from long to short, where nothing else fits."""
SMALLER_SHARE = 0.9
"""Settings that are not predicted to take a tenth less, beside the process, are no way out of a full memory."""


@dataclass(frozen=True)
class Situation:
    """What there is to do, whatever settings are chosen."""

    config: RunConfig
    base: Base
    train_pairs: int
    examples: list[Example]
    """Of these pairs: one each, unless they are dropped or split."""
    validation: list[Example]
    prompts: dict[str, list[Prompt]]
    """Per system that the model answers; the validation pairs' under `decoding`."""
    ranks: Ranks = ALONE
    """The processes that will train."""

    def with_size(self, size: "Size") -> "Situation":
        """The same with nothing left open."""
        return replace(self, config=size.apply(self.config))

    @property
    def trained(self) -> bool:
        """Whether any system needs an adapter."""
        return "tuned" in self.config.generate.systems

    @cached_property
    def trained_tokens(self) -> list[int]:
        """Of every example: counted once, for all candidates."""
        return [example.trained for example in self.examples]

    def layout(self, train: TrainConfig) -> Layout:
        """The whole training with some settings."""
        return lay_out([example.length for example in self.examples], train, seed=self.config.training_seed)


@dataclass(frozen=True)
class Size:
    """Settings that fit, and what they were chosen by."""

    device: Device
    dtype: str
    dtype_reason: str
    flops: float
    """Of a large matrix product in that format, per second; float32's where it was not measured."""
    settings: Settings
    answer_rows: int
    answer_quantization: Quantization
    candidates: list[Candidate]
    memory: MemoryPrediction
    process_bytes: int
    limit_bytes: int
    """Of each process that trains."""
    limit_reason: str
    whole_limit_bytes: int
    """Of a process that is alone."""

    def in_words(self) -> str:
        """What was chosen, for whoever watches."""
        return f"{in_words(self.settings)}, and {self.answer_rows} answers at a time"

    def apply(self, config: RunConfig) -> RunConfig:
        """The configuration with what was chosen in it."""
        return apply_choice(config, self.settings, self.answer_rows, self.answer_quantization)


def look(road: Road, base: Base) -> Situation:
    """Build the very rows that will be trained on, and refuse them when the audit finds fault."""
    config, pairs = road.config, Pairs.read(road)
    train = pairs.train(config)
    examples, validation = training_rows(pairs, base, config)
    audit = audit_supervision(train, examples, base.tokenizer, config.prompt)
    lengths = [example.length for example in examples]
    road.run.write_json(
        "supervision.json",
        {**audit.model_dump(), "max_length": config.train.max_length, "length_histogram": _histogram(lengths)},
    )
    check_audit(audit, config.train)
    asked, groups = pairs.test(config), pairs.test_groups(config)
    if groups < config.evaluate.min_groups:
        road.observer.say(too_few_groups(groups, config.evaluate.min_groups))
    systems = [name for name in config.generate.systems if name != "copy"]
    prompts: dict[str, list[Prompt]] = {
        name: prompts_for(name, asked, pairs.of("train"), base, config) for name in systems
    }
    if config.generate.no_repeat_ngram_size == "auto" and tried_systems(config):
        tried = subset(pairs.of("validation"), config.generate.validation_pairs, config.seed)
        prompts["decoding"] = prompts_for("base", tried, [], base, config)
    return Situation(
        config=config,
        base=base,
        train_pairs=len(train),
        examples=examples,
        validation=validation,
        prompts=prompts,
        ranks=road.ranks,
    )


def too_few_groups(groups: int, needed: int) -> str:
    """What to know before hours are spent on a run that cannot end in a verdict."""
    return (
        f"the test pairs are in {groups} groups, and {needed} are needed for a verdict (evaluate.min_groups): take "
        "more pairs, a larger split.test, or a larger generate.test_pairs"
    )


def _histogram(lengths: Sequence[int]) -> dict[str, list[int]]:
    import numpy as np

    counts, edges = np.histogram(lengths, bins=HISTOGRAM_BINS, range=(0, max(lengths, default=0) + 1))
    return {"edges": [round(edge) for edge in edges], "counts": [int(count) for count in counts]}


def choose_size(situation: Situation) -> Size:
    """The fastest settings that fit this machine's memory, or the budget's.

    Raises:
        ConfigError: nothing fits; says what would. Or the device that is configured is not here.
    """
    config = situation.config
    check_device(config.model.device)
    hardware = probe_hardware(wanted=config.model.device, rates_cache=cache_folder())
    device = hardware.device
    dtype, reason = choose_dtype(hardware) if config.model.dtype == "auto" else (config.model.dtype, "as configured")
    process = process_bytes(device, dtype)
    limit = memory_limit(config.budget, device, situation.ranks.local_size)
    whole = memory_limit(config.budget, device)
    predictor = _Predictor(situation, device, dtype, process)
    candidates = predictor.candidates(limit.bytes) if situation.trained else []
    if candidates:
        settings = choose_settings(candidates, limit, lambda: predictor.nearest(limit.bytes)).settings
    else:
        settings = possible_settings(config.train, config.model, can_be_compact=False)[0]
    rows, answering = _choose_answering(predictor, whole, settings.quantization)  # one process answers
    return Size(
        device=device,
        dtype=dtype,
        dtype_reason=reason,
        flops=hardware.matmul_flops.get(dtype, hardware.matmul_flops["float32"]),
        settings=settings,
        answer_rows=rows,
        answer_quantization=answering.quantization if answering else "none",
        candidates=candidates,
        memory=predictor.memory(settings, config.train, answering),
        process_bytes=process,
        limit_bytes=limit.bytes,
        limit_reason=limit.reason,
        whole_limit_bytes=whole.bytes,
    )


def choose_less(situation: Situation, size: Size, work: str) -> Size | None:
    """What takes less for `work` ("training" or "answering"), after a probe of `size` took more than it may.

    None: nothing that is left open does. `situation` is what `size` was chosen for.
    """
    settings, rows = size.settings, size.answer_rows
    if work == "training":
        taken = next(one.training_bytes for one in size.candidates if one.settings == settings)
        most = size.process_bytes + SMALLER_SHARE * (taken - size.process_bytes)
        less = [one for one in size.candidates if one.fits and one.training_bytes <= most]
        if not less:
            return None
        settings = less[0].settings
    elif rows == 1 or situation.config.generate.batch_size:
        return None
    else:
        rows //= 2
    predictor = _Predictor(situation, size.device, size.dtype, size.process_bytes)
    answering = predictor.answering_shape(rows, size.answer_quantization)
    memory = predictor.memory(settings, situation.config.train, answering)
    return replace(size, settings=settings, answer_rows=rows, memory=memory)


@dataclass(frozen=True)
class _Predictor:
    """Predicts memory for one base model, number format and corpus."""

    situation: Situation
    device: Device
    dtype: str
    process_bytes: int

    @property
    def can_be_compact(self) -> bool:
        return self.device == "cpu" and can_compact_memory()

    def memory(self, settings: Settings, train: TrainConfig, answering: AnsweringShape | None) -> MemoryPrediction:
        shape = self._training_shape(settings, train) if self.situation.trained else None
        folder, lora = self.situation.base.files.path, self.situation.config.lora
        return predict_memory(folder, lora, self.dtype, shape, answering)

    def training_bytes(self, settings: Settings, train: TrainConfig) -> int:
        return self.process_bytes + self.memory(settings, train, None).training_bytes

    def answering_bytes(self, shape: AnsweringShape) -> int:
        folder, lora = self.situation.base.files.path, self.situation.config.lora
        return self.process_bytes + predict_memory(folder, lora, self.dtype, None, shape).answering_bytes

    def answering_shape(self, rows: int, quantization: Quantization) -> AnsweringShape | None:
        """Of the chunk with the most tokens; none when the model answers nothing."""
        config = self.situation.config
        decoding = decoding_for(config, 0).model_copy(update={"batch_size": rows})
        new = decoding.max_new_tokens
        shapes = [
            AnsweringShape(len(chunk), max(len(prompt.input_ids) for prompt in chunk), new, quantization)
            for prompts in self.situation.prompts.values()
            for chunk in chunks(prompts, decoding)
        ]
        return max(shapes, key=lambda shape: shape.rows * (shape.prompt_tokens + new), default=None)

    def candidates(self, limit_bytes: int) -> list[Candidate]:
        train = self.situation.config.train
        layout = self.situation.layout(train)
        return weigh(
            self._possible(train),
            layout.slots / layout.steps / (train.batch_shape[0] * train.batch_shape[1]),
            self.device,
            lambda settings: self.training_bytes(settings, train),
            limit_bytes,
        )

    def _possible(self, train: TrainConfig) -> list[Settings]:
        model, processes = self.situation.config.model, self.situation.ranks.size
        return possible_settings(train, model, can_be_compact=self.can_be_compact, processes=processes)

    def nearest(self, limit_bytes: int) -> str:
        """What would fit instead, predicted like the rest."""
        train, model = self.situation.config.train, self.situation.config.model
        least = self._possible(
            train.model_copy(update={"per_device_train_batch_size": 1, "gradient_checkpointing": True})
        )[-1]
        ways = [("one example per micro-batch with gradient checkpointing", least)]
        if model.quantization == "none":
            needs = "" if can_quantize() else ", which needs bitsandbytes,"
            ways.append((f"model.quantization = 'nf4'{needs}", least.model_copy(update={"quantization": "nf4"})))
        needed = 0
        for length in dict.fromkeys(max(SHORTEST, train.max_length // part) for part in LENGTH_PARTS):
            shorter = train.model_copy(update={"max_length": min(length, train.max_length)})
            cut = f" and train.max_length = {length}" if length < train.max_length else ""
            for words, settings in ways:
                needed = self.training_bytes(settings, shorter)
                if fits(needed, limit_bytes):
                    return f"{words}{cut} would take {needed / 1e9:.2f} GB"
        room = limit_bytes / (1 + MEMORY_MARGIN) - self.process_bytes
        if room <= 0:
            return (
                f"Python and its libraries alone take {self.process_bytes / 1e9:.2f} GB: give the run more memory with "
                "budget.memory_gb"
            )
        return (
            f"take a smaller base model, of some {room / (needed - self.process_bytes):.0%} of this one's size, or "
            "give the run more memory with budget.memory_gb"
        )

    def _training_shape(self, settings: Settings, train: TrainConfig) -> TrainingShape:
        situation = self.situation
        if train.max_length != situation.config.train.max_length:
            cut = [replace(row, input_ids=row.input_ids[: train.max_length], labels=row.labels[: train.max_length])
                   for row in situation.examples]  # fmt: skip
            situation = replace(situation, examples=cut)
        one_pass = {"num_train_epochs": 1, "max_steps": None}
        layout = situation.layout(settings.training(train).model_copy(update=one_pass))
        worst = max(layout.micro_batches, key=layout.slots_of)
        slots = layout.slots_of(worst)
        rows = 1 if layout.packed else len(worst)
        trained = situation.trained_tokens
        return TrainingShape(
            rows=rows,
            width=slots // rows,
            shards=train.dp_shard_size if self.device == "cuda" else 1,  # on a CPU the file of the whole base counts
            trained_tokens=max(sum(trained[index] for index in batch) for batch in layout.micro_batches),
            gradient_checkpointing=settings.gradient_checkpointing,
            quantization=settings.quantization,
            compact=settings.compact or self.device != "cpu",
            packed=layout.packed,
            heads_repeated=self.device == "cuda" and not shares_heads(self.dtype),
        )


def _choose_answering(
    predictor: _Predictor, limit: MemoryLimit, trained_with: Quantization
) -> tuple[int, AnsweringShape | None]:
    """How many answers are written at a time, and the shape of the chunk that takes most.

    Raises:
        ConfigError: not even one at a time fits, or not as many as are configured.
    """
    generate = predictor.situation.config.generate
    in_parts = predictor.situation.config.train.dp_shard_size > 1
    options: list[Quantization] = [generate.quantization] if generate.quantization != "auto" else ["none"]
    if generate.quantization == "auto" and not in_parts and can_quantize():
        options.append("nf4" if trained_with == "none" else trained_with)
    for quantization in options:
        rows = generate.batch_size or ANSWER_ROWS[predictor.device]
        while True:
            shape = predictor.answering_shape(rows, quantization)
            needed = predictor.answering_bytes(shape) if shape else 0
            if fits(needed, limit.bytes):
                return rows, shape
            if generate.batch_size or rows == 1:
                break
            rows //= 2
    if in_parts:
        return 1, None  # answers are for a machine that holds the whole base
    raise ConfigError(
        f"writing {rows} answers at a time takes {needed / 1e9:.2f} GB, more than {limit.bytes / 1e9:.2f} GB "
        f"({limit.reason}) with a margin of {MEMORY_MARGIN:.0%}",
        hint="leave generate.batch_size and generate.quantization unset, lower generate.max_new_tokens or "
        "generate.few_shot_k, or take a smaller base model"
        + ("" if can_quantize() else "; with bitsandbytes (pip install '.[quantized]') quantized weights could answer"),
    )
