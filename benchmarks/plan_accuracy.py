"""Does a run take the memory and the time that the plan says?

    python -m benchmarks.plan_accuracy [--quick] [--out FILE]

Every configuration trains in a process of its own, on a model of random weights, in micro-batches of one shape: first
the plan's throw-away steps, which its time is predicted from, then more steps, which are timed. Memory is predicted
from config.json alone. The constants of `planning.memory` were fitted on FITTED; only JUDGED is counted. Budgets from
0.8 to 1.2 times the measured peak are then asked for: a false fit is a budget that the plan would have taken and the
run exceeded, a false refusal one that it would have refused and the run kept, by more than the stated margin each.
Writes benchmarks/results/plan_accuracy-MACHINE.json.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODELS: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
    "tinyllama-1.1b": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
        "tie_word_embeddings": False,
    },
    "width-256": {
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 8192,
        "tie_word_embeddings": False,
    },
}
"""Shapes of the three models; SmolLM2-135M's and TinyLlama-1.1B's as in their published configurations."""

TRAINED_SHARE = 0.8
"""Of a row, as on MedQuAD: the rest is prompt."""
PROBE_STEPS = 2
TIMED_STEPS = 6


@dataclass(frozen=True)
class Case:
    """One configuration."""

    model: str
    rows: int
    width: int
    dtype: str = "float32"
    checkpointing: bool = False
    quantization: str = "none"
    dropout: float = 0.0
    accumulation: int = 2

    @property
    def name(self) -> str:
        """In one word."""
        marks = [self.model, f"{self.rows}x{self.width}", self.dtype]
        marks += ["checkpointing"] * self.checkpointing + [self.quantization] * (self.quantization != "none")
        return " ".join(marks + [f"dropout {self.dropout:g}"] * (self.dropout > 0))


FITTED = (
    Case("width-256", 4, 384),
    Case("width-256", 16, 512),
    Case("width-256", 6, 512, checkpointing=True),
    Case("smollm2-135m", 3, 256),
    Case("smollm2-135m", 1, 768),
    Case("smollm2-135m", 3, 512, checkpointing=True),
    Case("tinyllama-1.1b", 1, 384),
)
"""What the constants were fitted on."""

JUDGED = (
    *(Case("width-256", rows, width) for rows, width in ((1, 512), (8, 256), (8, 512), (8, 1024), (32, 512))),
    Case("width-256", 8, 512, checkpointing=True),
    Case("width-256", 32, 512, checkpointing=True),
    Case("width-256", 8, 512, dropout=0.1),
    Case("width-256", 4, 256, dtype="bfloat16"),
    Case("width-256", 8, 256, dtype="bfloat16"),
    Case("width-256", 4, 256, dtype="bfloat16", checkpointing=True),
    Case("width-256", 4, 256, quantization="int8"),
    Case("width-256", 4, 256, quantization="nf4"),
    Case("width-256", 8, 256, quantization="nf4", checkpointing=True),
    Case("smollm2-135m", 1, 256),
    Case("smollm2-135m", 2, 256),
    Case("smollm2-135m", 4, 256),
    Case("smollm2-135m", 2, 512),
    Case("smollm2-135m", 4, 512),
    Case("smollm2-135m", 2, 1024),
    Case("smollm2-135m", 2, 512, checkpointing=True),
    Case("smollm2-135m", 8, 512, checkpointing=True),
    Case("smollm2-135m", 1, 512, dropout=0.1),
    Case("smollm2-135m", 1, 512, checkpointing=True, dropout=0.1),
    Case("smollm2-135m", 2, 256, quantization="nf4"),
    Case("tinyllama-1.1b", 1, 256, accumulation=1),
    Case("tinyllama-1.1b", 1, 512, accumulation=1),
    Case("tinyllama-1.1b", 1, 512, checkpointing=True, accumulation=1),
)
"""What is counted."""


def work(case: Case, folder: Path, timed_steps: int) -> dict[str, float]:
    """In a process of its own: predict, load, probe, train."""
    import trl  # noqa: F401  so that the process is as big as the plan's when it looks

    from vademecum.config import LoraConfig, ModelConfig, TrainConfig
    from vademecum.hardware import process_memory_bytes
    from vademecum.models import attach_adapter, load_base
    from vademecum.planning.memory import TrainingShape, predict_memory
    from vademecum.stages.measuring import peak_memory_bytes
    from vademecum.training import Example, Layout, TrainingData, probe_steps

    trained = int(TRAINED_SHARE * case.width)
    lora = LoraConfig(lora_dropout=case.dropout)
    shape = TrainingShape(
        rows=case.rows,
        width=case.width,
        trained_tokens=case.rows * trained,
        gradient_checkpointing=case.checkpointing,
        quantization=case.quantization,  # type: ignore[arg-type]
    )
    began = time.perf_counter()
    predicted = predict_memory(folder, lora, case.dtype, shape, None)
    planning_seconds = time.perf_counter() - began
    before = process_memory_bytes()
    model = load_base(folder, ModelConfig(quantization=case.quantization), dtype=case.dtype, device="cpu")  # type: ignore[arg-type]
    loaded = process_memory_bytes()
    ids = [token % 8000 + 1 for token in range(case.width)]
    labels = [-100] * (case.width - trained) + ids[case.width - trained :]
    per_step = case.rows * case.accumulation
    examples = [Example(str(row), ids, labels, cut=False) for row in range(per_step)]
    micro_batches = [list(range(part * case.rows, (part + 1) * case.rows)) for part in range(case.accumulation)]
    layout = Layout(micro_batches, case.accumulation, None, [case.width] * per_step)
    data = TrainingData(examples, [], layout, 0, case.dtype, "cpu", 1, 1)
    config = TrainConfig(
        per_device_train_batch_size=case.rows,
        gradient_accumulation_steps=case.accumulation,
        gradient_checkpointing=case.checkpointing,
    )
    adapted = attach_adapter(model, lora, 0)
    probed = probe_steps(adapted, data, config, steps=PROBE_STEPS, seed=0)
    timed = probe_steps(adapted, data, config, steps=timed_steps, seed=1) if timed_steps else []
    return {
        "predicted_bytes": predicted.training_bytes,
        "process_bytes": before,
        "loaded_bytes": loaded,
        "measured_bytes": peak_memory_bytes(),
        "planning_seconds": planning_seconds,
        "predicted_seconds": sum(step.seconds for step in probed) / len(probed) * timed_steps,
        "measured_seconds": sum(step.seconds for step in timed),
        **{f"predicted.{name}": value for name, value in predicted.model_dump().items()},
    }


if __name__ == "__main__":
    case = Case(**json.loads(sys.argv[1]))
    print(json.dumps(work(case, Path(sys.argv[2]), int(sys.argv[3]))))
