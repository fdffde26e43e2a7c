"""Made-up rows, small settings and the tiny model, for the tests of training."""

from collections.abc import Callable
from random import Random
from typing import Any

from peft import PeftModel

from vademecum.config.sections import TrainConfig
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
        made.append(Example(id=f"row {number}", input_ids=ids, labels=[-100] * prompt + ids[prompt:], cut=False))
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
