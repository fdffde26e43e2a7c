"""Every setting of ours arrives in TRL's arguments, or is obeyed by someone named."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.training.tiny import config, data, examples

from vademecum.config.sections import TrainConfig
from vademecum.training.arguments import CONSUMED_ELSEWHERE, training_arguments

ARRIVES: dict[str, tuple[object, str, object]] = {
    "per_device_train_batch_size": (3, "per_device_train_batch_size", 3),
    "gradient_accumulation_steps": (5, "gradient_accumulation_steps", 5),
    "max_steps": (9, "max_steps", 9),
    "optim": ("adafactor", "optim", "adafactor"),
    "learning_rate": (7e-4, "learning_rate", 7e-4),
    "lr_scheduler_type": ("cosine", "lr_scheduler_type", "cosine"),
    "warmup_steps": (4, "warmup_steps", 4),
    "weight_decay": (0.1, "weight_decay", 0.1),
    "max_grad_norm": (0.5, "max_grad_norm", 0.5),
    "gradient_checkpointing": (True, "gradient_checkpointing", True),
    "report_to": (("tensorboard",), "report_to", ["tensorboard"]),
}
DECIDED_BY_THE_PLAN = {"eval_steps", "save_steps"}


@pytest.mark.parametrize("name", sorted(TrainConfig.model_fields))
def test_every_setting_arrives(name: str, tmp_path: Path) -> None:
    if name in CONSUMED_ELSEWHERE:
        assert name not in ARRIVES
        return
    if name in DECIDED_BY_THE_PLAN:
        given = replace(data(config(), validation=examples(2)), eval_steps=17, save_steps=17)
        assert getattr(training_arguments(config(), given, tmp_path, 0), name) == 17
        return
    value, attribute, expected = ARRIVES[name]
    knobs = config(**{name: value})
    assert getattr(training_arguments(knobs, data(knobs), tmp_path, 0), attribute) == expected


@pytest.mark.parametrize(
    ("dtype", "bf16", "fp16"), [("float32", False, False), ("bfloat16", True, False), ("float16", False, True)]
)
def test_the_number_format_is_never_left_to_trl(tmp_path: Path, dtype: str, bf16: bool, fp16: bool) -> None:
    arguments = training_arguments(config(), data(config(), dtype=dtype), tmp_path, 3)
    assert (arguments.bf16, arguments.fp16) == (bf16, fp16)
    assert arguments.use_cpu
    assert arguments.seed == 3


def test_trl_neither_cuts_nor_drops_nor_packs(tmp_path: Path) -> None:
    arguments = training_arguments(config(), data(config()), tmp_path, 0)
    assert arguments.max_length is None
    assert not arguments.packing
    assert arguments.dataset_kwargs == {"skip_prepare_dataset": True}
    assert not arguments.logging_nan_inf_filter
    assert arguments.logging_steps == 1
