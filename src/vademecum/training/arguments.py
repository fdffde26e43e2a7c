"""Our settings in TRL's words."""

import difflib
import importlib.util
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vademecum.config.sections import TrainConfig
from vademecum.errors import ConfigError
from vademecum.training.protocol import TrainingData

if TYPE_CHECKING:
    from trl import SFTConfig

WARMUP_SHARE = 0.03
"""Of the optimizer steps, where train.warmup_steps is not set."""
CHECKPOINTS_KEPT = 2

CONSUMED_ELSEWHERE = {
    "batching": "batching.lay_out",
    "max_length": "supervision.build_examples",
    "overlong": "supervision.build_examples",
    "dp_shard_size": "sharded.shard_base",
    "examples_per_step": "TrainConfig.batch_shape",
    "seed": "RunConfig.training_seed",
    "max_pairs": "the train stage",
    "num_train_epochs": "batching.lay_out",
    "eval_pairs": "the train stage",
    "max_cut_share": "supervision.check_audit",
}
"""Settings of `TrainConfig` that are no argument of TRL here, and who obeys them."""


def check_arguments(config: TrainConfig) -> None:
    """Refuse what would only fail when training begins.

    Raises:
        ConfigError: an optimizer that the Trainer does not have, or a tracker that is not installed.
    """
    from transformers.training_args import OptimizerNames

    known = [name.value for name in OptimizerNames]
    if config.optim not in known:
        near = difflib.get_close_matches(config.optim, known, n=3) or ["adamw_torch", "adafactor"]
        raise ConfigError(
            f"train.optim = {config.optim!r} is no optimizer of the Trainer", hint=f"such as {', '.join(near)}"
        )
    for tracker in config.report_to:
        if importlib.util.find_spec(tracker) is None:
            raise ConfigError(
                f"train.report_to names {tracker!r}, which is not installed",
                hint=f"pip install {tracker}, or leave it out",
            )


def training_arguments(config: TrainConfig, data: TrainingData, folder: Path, seed: int) -> "SFTConfig":
    """Map `config` to TRL's `SFTConfig`; the numbers of steps and micro-batches and the device come from `data`.

    `config.warmup_steps` are steps of the planned schedule.
    """
    from trl import SFTConfig

    steps = data.layout.steps
    planned = data.schedule.planned_steps if data.schedule else steps
    arguments = SFTConfig(
        output_dir=str(folder),
        seed=seed,
        per_device_train_batch_size=config.batch_shape[0],
        gradient_accumulation_steps=data.share.accumulation,
        max_steps=steps,
        optim=config.optim,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=round(WARMUP_SHARE * planned) if config.warmup_steps is None else config.warmup_steps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        **_checkpointing(config.gradient_checkpointing or False),
        # TRL takes bf16 wherever neither is set, whatever the machine.
        bf16=data.dtype == "bfloat16",
        fp16=data.dtype == "float16",
        use_cpu=data.device == "cpu",
        ddp_find_unused_parameters=False,
        eval_strategy="steps" if data.validation else "no",
        eval_steps=data.eval_steps,
        save_strategy="steps",
        save_steps=data.save_steps,
        save_total_limit=CHECKPOINTS_KEPT,
        logging_steps=1,
        # The filter would put an average in the place of a loss that is not finite.
        logging_nan_inf_filter=False,
        report_to=list(config.report_to) or "none",
        disable_tqdm=True,
        # The rows come tokenized, cut, packed and laid out; TRL must do none of it again.
        max_length=None,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
    )
    # One model on one device. Seeing several GPUs, the Trainer would wrap it in DataParallel, which TRL refuses.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def _checkpointing(switch: bool) -> dict[str, Any]:
    """transformers renamed gradient_checkpointing to activation_checkpointing in the course of version 5."""
    from transformers import TrainingArguments

    renamed = "activation_checkpointing" in {field.name for field in fields(TrainingArguments)}
    name = "activation_checkpointing" if renamed else "gradient_checkpointing"
    return {name: switch, f"{name}_kwargs": {"use_reentrant": False} if switch else None}
