"""Made-up rows, small settings and the tiny model, for the tests of training."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from peft import PeftModel

from vademecum.config.sections import TrainConfig
from vademecum.stopping import Stop
from vademecum.training.adaptations import Adaptation
from vademecum.training.batching import lay_out
from vademecum.training.supervision import Example
from vademecum.training.trainer import TrainingData

PAD = 0
Build = Callable[..., PeftModel]


def examples(count: int, seed: int = 0) -> list[Example]:
    rng = Random(seed)
    made = []
    for number in range(count):
        ids = [rng.randrange(3, 400) for _ in range(rng.randrange(8, 32))]
        prompt = rng.randrange(2, 6)
        made.append(Example(id=f"row {number}", input_ids=ids, labels=[-100] * prompt + ids[prompt:]))
    return made


def config(**values: Any) -> TrainConfig:
    return TrainConfig(
        **{
            "max_length": 32,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "max_steps": 6,
            **values,
        }
    )


def data(train_config: TrainConfig, rows: list[Example] | None = None, **values: Any) -> TrainingData:
    rows = rows or examples(40)
    given: dict[str, Any] = {
        "examples": rows,
        "validation": [],
        "layout": lay_out([row.length for row in rows], train_config, seed=1),
        "pad_id": PAD,
        "dtype": "float32",
        "device": "cpu",
        "save_steps": 100,
        "eval_steps": 100,
    }
    return TrainingData(**{**given, **values})


@dataclass
class Memory:
    """A sink that keeps everything, and can break off after a step."""

    checkpoints: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    times: list[dict[str, Any]] = field(default_factory=list)
    break_after: int | None = None
    stop: Stop = field(default_factory=Stop)
    clock: Callable[[], float] = time.monotonic
    changes: list[Adaptation] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def done(self) -> int:
        return sum(row["step"] > 0 for row in self.rows)

    def seconds(self) -> float:
        return self.clock()

    def adaptations(self) -> list[Adaptation]:
        return list(self.changes)

    def adapt(self, adaptation: Adaptation) -> None:
        self.changes.append(adaptation)

    def say(self, text: str) -> None:
        self.said.append(text)

    def step(self, row: dict[str, Any]) -> None:
        if row["step"] == self.break_after:
            raise KeyboardInterrupt
        self.rows.append(row)

    def timing(self, row: dict[str, Any]) -> None:
        self.times.append(row)

    def truncate(self, step: int) -> None:
        self.rows = [row for row in self.rows if row["step"] <= step]
        self.times = [row for row in self.times if row["step"] <= step]

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The rows but for the untrained model's."""
        return [row for row in self.rows if row["step"]]


def weights(model: PeftModel) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}
