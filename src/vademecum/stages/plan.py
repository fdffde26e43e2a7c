"""plan: pairs.jsonl, splits.jsonl → supervision.json (what will really be trained), plan.json (what it will cost)."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vademecum.config import RunConfig
from vademecum.generation import Prompt, chunks, probe_generation
from vademecum.hardware import Device, Hardware, check_device, choose_dtype, peak_memory_bytes, probe_hardware
from vademecum.models import attach_adapter
from vademecum.planning import AnswerRates, Plan, Rates, Workload, answering_seconds, check_memory, choose_steps
from vademecum.sources import cache_folder
from vademecum.stages.answer import REPETITION_CONTROLS, decoding_for, tried_systems
from vademecum.stages.material import Base, Pairs, model_digest, prompts_for, subset
from vademecum.stages.road import Road, Stage
from vademecum.training import (
    Example,
    Layout,
    TrainingData,
    audit_supervision,
    build_examples,
    check_arguments,
    check_audit,
    lay_out,
    probe_steps,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBE_STEPS = 3
"""Throw-away optimizer steps that are timed, after one that warms up in the largest shape."""
PROBE_NEW_TOKENS = 24
HISTOGRAM_BINS = 32


@dataclass(frozen=True)
class Situation:
    """What the plan goes by."""

    config: RunConfig
    base: Base
    examples: list[Example]
    validation: list[Example]
    layout: Layout
    full_steps: int
    """Optimizer steps of all epochs, whatever train.max_steps says."""
    prompts: dict[str, list[Prompt]]
    """Per system that the model answers; the validation pairs' under `decoding`."""


def make_plan(road: Road, _: Path) -> None:
    """Audit the training tensors, probe the machine with them, and decide."""
    config, base = road.config, Base.locate(road)
    check_arguments(config.train)
    check_device(config.model.device)
    started = time.monotonic()  # fetching and converting the base model is not part of the budget
    situation = _look(road, base)
    hardware = probe_hardware(rates_cache=cache_folder())
    device, dtype, reason = _number_format(config, hardware)
    road.observer.say(f"{device}, {dtype}: {reason}")
    rates = _probe(road, situation, base.load(road, device=device, dtype=dtype), dtype, device)
    check_memory(rates, config.budget)
    spent = road.run.entries()["prepare"].seconds + time.monotonic() - started
    answering = _answering(situation, rates)
    work = Workload(
        full_steps=situation.full_steps,
        tokens_per_step=situation.layout.real_tokens / situation.layout.steps,
        validation_tokens=sum(example.length for example in situation.validation),
        answering=answering,
        spent_seconds=spent,
    )
    steps = choose_steps(work, rates, config.train, config.budget)
    chosen = Plan(
        device=device,
        dtype=dtype,
        dtype_reason=reason,
        base=base.files.origin,
        base_digest=base.files.digest,
        optimizer_steps=steps.optimizer_steps,
        full_steps=work.full_steps,
        ended_by=steps.ended_by,
        warmup_steps=steps.warmup_steps,
        eval_steps=steps.eval_steps,
        save_steps=steps.save_steps,
        micro_batch_tokens=situation.layout.worst_tokens,
        real_tokens=round(work.tokens_per_step * steps.optimizer_steps),
        rates=rates,
        predicted_seconds={"prepare and plan": spent, "train": steps.train_seconds, **answering},
    )
    road.run.write_json("plan.json", chosen.model_dump(mode="json"))


def _look(road: Road, base: Base) -> Situation:
    """Build the very rows that will be trained on, and refuse them when the audit finds fault."""
    config, pairs = road.config, Pairs.read(road)
    train = pairs.train(config)
    examples = build_examples(train, base.tokenizer, config.prompt, config.train)
    audit = audit_supervision(train, examples, base.tokenizer, config.prompt)
    lengths = [example.length for example in examples]
    road.run.write_json(
        "supervision.json",
        {**audit.model_dump(), "max_length": config.train.max_length, "length_histogram": _histogram(lengths)},
    )
    check_audit(audit, config.train)
    validation = subset(pairs.of("validation"), config.train.eval_pairs, config.seed)
    asked = pairs.test(config)
    systems = [name for name in config.generate.systems if name != "copy"]
    prompts: dict[str, list[Prompt]] = {
        name: prompts_for(name, asked, pairs.of("train"), base, config) for name in systems
    }
    if config.generate.no_repeat_ngram_size == "auto":
        tried = subset(pairs.of("validation"), config.generate.validation_pairs, config.seed)
        prompts["decoding"] = prompts_for("base", tried, [], base, config)
    return Situation(
        config=config,
        base=base,
        examples=examples,
        validation=build_examples(validation, base.tokenizer, config.prompt, config.train),
        layout=lay_out(lengths, config.train, seed=config.seed),
        full_steps=lay_out(lengths, config.train.model_copy(update={"max_steps": None}), seed=config.seed).steps,
        prompts=prompts,
    )


def _histogram(lengths: Sequence[int]) -> dict[str, list[int]]:
    import numpy as np

    counts, edges = np.histogram(lengths, bins=HISTOGRAM_BINS, range=(0, max(lengths) + 1))
    return {"edges": [round(edge) for edge in edges], "counts": [int(count) for count in counts]}


def _number_format(config: RunConfig, hardware: Hardware) -> tuple[Device, str, str]:
    device: Device = hardware.device if config.model.device == "auto" else config.model.device
    if config.model.dtype != "auto":
        return device, config.model.dtype, "as configured"
    return device, *choose_dtype(hardware, device)


def _probe(road: Road, situation: Situation, model: "PreTrainedModel", dtype: str, device: str) -> Rates:
    """Answer and train for a few throw-away steps in the shapes of this corpus."""
    answers = {}
    for name, prompts in situation.prompts.items():
        road.stop.check()
        if prompts and _kind(name) not in answers:
            road.observer.say(f"timing {_kind(name)} answers")
            answers[_kind(name)] = _answer_rates(situation, model, prompts)
    rate = _train_rate(road, situation, model, dtype, device) if "tuned" in situation.config.generate.systems else 0.0
    return Rates(train_tokens_per_second=rate, answers=answers, peak_memory_bytes=peak_memory_bytes())


def _kind(system: str) -> str:
    """Systems whose prompts have the same form are timed once."""
    return "few-shot" if system == "few-shot" else "plain"


def _answer_rates(situation: Situation, model: "PreTrainedModel", prompts: Sequence[Prompt]) -> AnswerRates:
    decoding = decoding_for(situation.config, 0)
    middle = chunks(prompts, decoding)
    timing = probe_generation(
        model, situation.base.tokenizer, middle[len(middle) // 2], decoding, new_tokens=PROBE_NEW_TOKENS
    )
    return AnswerRates(
        prompt_tokens_per_second=timing.prompt_tokens / timing.prefill_seconds,
        step_seconds=timing.decode_seconds / PROBE_NEW_TOKENS,
        rows=timing.rows,
    )


def _train_rate(road: Road, situation: Situation, model: "PreTrainedModel", dtype: str, device: str) -> float:
    """Real tokens per second of throw-away optimizer steps."""
    config = situation.config
    road.observer.say("timing optimizer steps")
    data = TrainingData(
        examples=situation.examples,
        validation=[],
        layout=situation.layout,
        pad_id=situation.base.tokenizer.pad_token_id,
        dtype=dtype,
        device=device,
        save_steps=1,
        eval_steps=1,
    )
    adapted = attach_adapter(model, config.lora, config.seed)
    steps = probe_steps(adapted, data, config.train, steps=PROBE_STEPS, seed=config.seed)
    return sum(step.real_tokens for step in steps) / sum(step.seconds for step in steps)


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
