"""plan: pairs.jsonl, splits.jsonl → supervision.json (what will really be trained), plan.json (what it will cost)."""

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from vademecum.config import RunConfig, load_config
from vademecum.errors import ConfigError, OutOfMemoryError
from vademecum.generation import Prompt, chunks, probe_generation
from vademecum.hardware import (
    PeakMemory,
    check_device,
    compact_memory,
    limit_cuda_memory,
    out_of_memory_told,
    process_peak_bytes,
    release_memory,
)
from vademecum.models import attach_adapter
from vademecum.planning import (
    TAKES_LESS,
    AnswerRates,
    ForecastWork,
    Plan,
    Rates,
    Shape,
    Workload,
    answering_seconds,
    check_disk,
    check_memory,
    choose_steps,
    forecast_rates,
    predict_disk_bytes,
    read_model_config,
    settings_cost,
    shapeless,
)
from vademecum.stages.answer import REPETITION_CONTROLS, decoding_for, load_to_answer, tried_systems
from vademecum.stages.material import Base, model_digest
from vademecum.stages.road import Road, Stage
from vademecum.stages.sizing import Situation, Size, choose_less, choose_size, look
from vademecum.stages.train import cuda_limit
from vademecum.training import TrainingData, check_arguments, evaluation_rate, probe_steps

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBE_STEPS = 3
"""Throw-away optimizer steps that are timed, after two in the largest shape."""
PROBE_NEW_TOKENS = 24
IF_FULL = f"look with nvidia-smi whether others hold its memory; if not, {TAKES_LESS}"
"""Where the probe runs out of a GPU's memory, and nothing that takes less is left."""
RATE_NEUTRAL = {
    "gradient_accumulation_steps", "examples_per_step", "num_train_epochs", "max_steps", "max_pairs", "optim", "seed",
    "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "eval_steps", "eval_pairs", "save_steps",
    "report_to",
}  # fmt: skip
"""Settings of `train` that do not change how many tokens per second go through."""


def make_plan(road: Road, _: Path) -> None:
    """Audit the training tensors, choose what fits, probe the machine with it, and decide."""
    check_arguments(road.config.train)
    check_device(road.config.model.device)
    base = Base.locate(road)  # fetches gigabytes where need be
    started = time.monotonic()  # fetching and converting the base model is not part of the budget
    situation = look(road, base)
    size = choose_size(situation)
    road.ranks.check(size.device)
    _check_parts(road)
    road.observer.say(f"{size.device}, {size.dtype}: {size.dtype_reason}")
    if road.config.train.dp_shard_size > 1:  # rank 0 alone cannot try what takes all of them
        rates = _forecast_rates(situation.with_size(size), size)
    else:
        size, rates = _try_out(road, situation, size)
    situation = situation.with_size(size)
    spent = road.run.entries()["prepare"].seconds + time.monotonic() - started
    plan = decide(situation, size, rates, spent, there := road.run.size_bytes)
    check_disk(plan.disk_bytes, there, road.run.path)
    road.run.write_json("plan.json", plan.model_dump(mode="json"))


def _check_parts(road: Road) -> None:
    """Refuse to train on a base in parts with another number of processes than there are parts."""
    parts, size = road.config.train.dp_shard_size, road.ranks.size
    if parts > 1 and parts != size and "tuned" in road.config.generate.systems:
        raise ConfigError(
            f"train.dp_shard_size = {parts} keeps the base in the memory of {parts} processes, and there "
            f"{'is one' if size == 1 else f'are {size}'}",
            hint=f"start {parts} with torchrun --nproc-per-node {parts}, or leave the setting at 1",
        )


def _try_out(road: Road, situation: Situation, size: Size) -> tuple[Size, Rates]:
    """Probe what was chosen; where that takes more than it may, what takes less.

    Raises:
        OutOfMemoryError: there is nothing that takes less.
    """
    while True:
        ready = situation.with_size(size)
        try:
            rates = _known_rates(road, ready, size) or _probe(road, ready, size)
            check_memory(rates, size.whole_limit_bytes)
        except OutOfMemoryError as error:  # no more of it is kept: its frames hold the model
            message, hint, work = error.message, error.hint, error.work
        else:
            return size, rates
        smaller = choose_less(situation, size, work)
        if smaller is None:
            raise OutOfMemoryError(message, hint=hint, work=work)
        size = smaller
        road.observer.say(f"{message}: now with {size.in_words()}")
        release_memory()


def _known_rates(road: Road, situation: Situation, size: Size) -> Rates | None:
    """What the probe of the run that may be reused has found, if it had the same work in the same shapes."""
    if road.reuse is None or not road.reuse.file("plan.json").is_file():
        return None
    known = road.reuse.read_record("plan.json", Plan)
    probed = known.apply(load_config(road.reuse.file("config.json")))
    alike = (known.base_digest, known.device, known.dtype) == (situation.base.files.digest, size.device, size.dtype)
    alike = alike and known.settings.compact == size.settings.compact
    return known.rates if known.measured and alike and _work(probed) == _work(situation.config) else None


def _work(config: RunConfig) -> object:
    """What decides how fast a run is, whatever its schedule and its number of steps are."""
    train = config.train.model_dump(exclude=RATE_NEUTRAL)
    generate = config.generate.model_dump(
        include={"systems", "max_new_tokens", "batch_size", "quantization", "few_shot_k"}
    )
    model = config.model.model_dump(exclude={"dtype", "device"})  # what came of these is compared
    return (config.corpus, config.split, config.prompt, model, config.lora, train, generate)


def decide(situation: Situation, size: Size, rates: Rates, spent_seconds: float, corpus_bytes: int) -> Plan:
    """Put together what is known, and choose the number of steps."""
    config = situation.config
    layout = situation.layout(config.train)
    answering = _answering(situation, rates)
    work = Workload(
        full_steps=situation.layout(config.train.model_copy(update={"max_steps": None})).steps,
        tokens_per_step=layout.real_tokens / layout.steps,
        validation_tokens=sum(example.length for example in situation.validation),
        answering=answering,
        spent_seconds=spent_seconds,
        speedup=situation.ranks.speedup(size.device),
    )
    steps = choose_steps(work, rates, config.train, config.budget)
    return Plan(
        device=size.device,
        dtype=size.dtype,
        dtype_reason=size.dtype_reason,
        base=situation.base.files.origin,
        base_digest=situation.base.files.digest,
        train_pairs=situation.train_pairs,
        optimizer_steps=steps.optimizer_steps,
        full_steps=work.full_steps,
        ended_by=steps.ended_by,
        warmup_steps=steps.warmup_steps,
        eval_steps=steps.eval_steps,
        save_steps=steps.save_steps,
        settings=size.settings,
        answer_rows=size.answer_rows,
        answer_quantization=size.answer_quantization,
        candidates=size.candidates,
        micro_batch_tokens=layout.worst_tokens,
        real_tokens=round(work.tokens_per_step * steps.optimizer_steps),
        processes=situation.ranks.size,
        memory=size.memory,
        process_bytes=size.process_bytes,
        memory_limit_bytes=size.limit_bytes,
        memory_limit_reason=size.limit_reason,
        disk_bytes=predict_disk_bytes(corpus_bytes, size.memory, _answer_tokens(situation)),
        rates=rates,
        measured=rates.peak_memory_bytes > 0,
        predicted_seconds={"prepare and plan": spent_seconds, "train": steps.train_seconds, **answering},
    )


def _probe(road: Road, situation: Situation, size: Size) -> Rates:
    """Answer and train for a few throw-away steps in the shapes of this corpus, with the weights of each."""
    config = situation.config
    if not any(situation.prompts.values()) and not situation.trained:  # copying needs no model
        return Rates(
            train_tokens_per_second=0.0,
            evaluation_tokens_per_second=0.0,
            answers={},
            peak_memory_bytes=process_peak_bytes(),
        )
    with out_of_memory_told("answering", IF_FULL):
        model = load_to_answer(situation.base, config, device=size.device, dtype=size.dtype)
        with PeakMemory() as answering:
            answers = _all_answer_rates(road, situation, model)
    train_rate, evaluation, training_peak = 0.0, 0.0, 0
    if situation.trained:
        with out_of_memory_told("training", IF_FULL):
            compact_memory(size.settings.compact)
            if config.model.quantization != config.generate.quantization:
                del model
                release_memory()
                model = situation.base.load(config.model, device=size.device, dtype=size.dtype)
            release_memory()
            if size.device == "cuda":
                limit_cuda_memory(cuda_limit(config.budget, size.limit_bytes, size.process_bytes))
            train_rate, evaluation, training_peak = _train_rates(road, situation, model, size)
    return Rates(
        train_tokens_per_second=train_rate,
        evaluation_tokens_per_second=evaluation,
        answers=answers,
        peak_memory_bytes=max(answering.peak_bytes, training_peak),
        training_peak_bytes=training_peak,
    )


def _all_answer_rates(road: Road, situation: Situation, model: "PreTrainedModel") -> dict[str, AnswerRates]:
    answers: dict[str, AnswerRates] = {}
    for name, prompts in situation.prompts.items():
        road.stop.check()
        if prompts and _kind(name) not in answers:
            road.observer.say(f"timing {_kind(name)} answers")
            answers[_kind(name)] = _answer_rates(situation, model, prompts)
    return answers


def _kind(system: str) -> str:
    """Systems whose prompts have the same form are timed once."""
    return "few-shot" if system == "few-shot" else "plain"


def _answer_rates(situation: Situation, model: "PreTrainedModel", prompts: Sequence[Prompt]) -> AnswerRates:
    decoding = decoding_for(situation.config, 0)
    found = chunks(prompts, decoding)
    rows = max(map(len, found))
    full = [chunk for chunk in found if len(chunk) == rows]
    timing = probe_generation(
        model, situation.base.tokenizer, full[len(full) // 2], decoding, new_tokens=PROBE_NEW_TOKENS
    )
    return AnswerRates(
        prompt_tokens_per_second=timing.prompt_tokens / timing.prefill_seconds,
        step_seconds=timing.decode_seconds / PROBE_NEW_TOKENS,
        rows=timing.rows,
    )


def _train_rates(road: Road, situation: Situation, model: "PreTrainedModel", size: Size) -> tuple[float, float, int]:
    """Real tokens per second of throw-away optimizer steps, and of a validation loss; and the peak memory of both."""
    config = situation.config
    road.observer.say("timing optimizer steps")
    data = TrainingData(
        examples=situation.examples,
        validation=[],
        layout=situation.layout(config.train),
        pad_id=situation.base.tokenizer.pad_token_id,
        dtype=size.dtype,
        device=size.device,
        save_steps=1,
        eval_steps=1,
    )
    adapted = attach_adapter(model, config.lora, config.training_seed)
    with PeakMemory() as memory:
        steps = probe_steps(adapted, data, config.train, steps=PROBE_STEPS, seed=config.training_seed)
        evaluated = situation.validation or situation.examples
        evaluation = evaluation_rate(adapted, evaluated, data.pad_id, data.layout.worst_tokens)
    rate = sum(step.real_tokens for step in steps) / sum(step.seconds for step in steps)
    return rate, evaluation, memory.peak_bytes


def _answering(situation: Situation, rates: Rates) -> dict[str, float]:
    generate = situation.config.generate
    found = {}
    for name, prompts in situation.prompts.items():
        if not prompts:
            continue
        tokens = sum(len(prompt.input_ids) for prompt in prompts)
        measured = rates.answers[_kind(name)]
        if name == "decoding":
            trials = tried_systems(situation.config)
            found[name] = sum(
                len(REPETITION_CONTROLS)
                * answering_seconds(system, tokens, len(prompts), generate.max_new_tokens, measured)
                for system in trials
            )
        else:
            found[f"predict/{name}"] = answering_seconds(name, tokens, len(prompts), generate.max_new_tokens, measured)
    return found


def _answer_tokens(situation: Situation) -> int:
    """That all systems together can write; `copy` writes answers of the corpus, which are not longer as a rule."""
    generate = situation.config.generate
    asked = max((len(prompts) for name, prompts in situation.prompts.items() if name != "decoding"), default=0)
    return len(generate.systems) * asked * generate.max_new_tokens


def forecast(road: Road) -> Plan:
    """Plan without loading weights, from the model's configuration and the corpus; expects a prepared run.

    The rates are derived from this machine's matrix products, not measured.

    Raises:
        ConfigError: nothing fits the memory, or the budget leaves no time to train; says what would.
    """
    started = time.monotonic()
    situation = look(road, Base.locate(road, weights=False))
    size = choose_size(situation)
    situation = situation.with_size(size)
    rates = _forecast_rates(situation, size)
    return decide(situation, size, rates, time.monotonic() - started, road.run.size_bytes)


def _forecast_rates(situation: Situation, size: Size) -> Rates:
    shape = Shape.of(shapeless(read_model_config(situation.base.files.path), size.dtype, situation.config.lora))
    kinds = {_kind(name): prompts for name, prompts in situation.prompts.items() if prompts}
    work = ForecastWork(
        rows=[(row.length, row.trained) for row in situation.examples] if situation.trained else [],
        slowdown=_slowdown(situation, size) if situation.trained else 1.0,
        prompts={kind: round(fmean(len(prompt.input_ids) for prompt in prompts)) for kind, prompts in kinds.items()},
        answer_rows=size.answer_rows,
        answer_quantization=size.answer_quantization,
    )
    return forecast_rates(shape, work, size.flops, size.device)


def _slowdown(situation: Situation, size: Size) -> float:
    layout = situation.layout(situation.config.train)
    return layout.slots / layout.real_tokens * settings_cost(size.settings, size.device)


def plan_inputs(road: Road) -> dict[str, str]:
    """The base model, and whether anything is trained; other changes of `generate` do not touch a finished plan."""
    return {**model_digest(road), "trained": str("tuned" in road.config.generate.systems)}


PLAN = Stage(
    name="plan",
    settings=("seed", "prompt", "model", "lora", "train", "budget"),
    reads=("pairs.jsonl", "splits.jsonl"),
    writes=("supervision.json", "plan.json"),
    work=make_plan,
    outside=plan_inputs,
)
