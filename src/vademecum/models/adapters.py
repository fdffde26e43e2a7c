"""LoRA adapters: made, saved, loaded, merged, and shown to have an effect."""

import copy
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from vademecum.config import LoraConfig
from vademecum.cuda import is_out_of_memory
from vademecum.errors import ConfigError, DivergedError, RunError, SourceError
from vademecum.files import naming, write_json, write_whole
from vademecum.models.checkpoints import BaseModelFiles

if TYPE_CHECKING:
    import peft
    from peft import PeftModel
    from transformers import PreTrainedModel


def peft_config(config: LoraConfig) -> "peft.LoraConfig":
    """Our section in PEFT's form."""
    import peft

    target = config.target_modules
    return peft.LoraConfig(
        r=config.r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=target if isinstance(target, str) else list(target),
        bias="none",
        task_type="CAUSAL_LM",
    )


def attach_adapter(model: "PreTrainedModel", config: LoraConfig, seed: int) -> "PeftModel":
    """Put a fresh adapter into a base model, in place; until it is trained the model answers as before.

    The adapter's weights are float32 and depend on `seed` alone: they are drawn on the CPU whatever the device, and
    the global random state is left as it was.

    Raises:
        ConfigError: lora.target_modules names no layer of this model, or its head.
    """
    import torch
    from peft import get_peft_model

    try:
        if _takes_head(model, config.target_modules):
            raise ConfigError(
                f"lora.target_modules = {config.target_modules!r} takes in the model's head.",
                hint="Leave the head out; 'all-linear' does.",
            )
        with torch.random.fork_rng(devices=[]), _known_warning_silenced():
            torch.default_generator.manual_seed(seed)
            tuned = get_peft_model(model, peft_config(config))
    except (ValueError, re.error) as error:
        linear = sorted(
            {name.split(".")[-1] for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
        )
        raise ConfigError(
            f"lora.target_modules = {config.target_modules!r} does not fit this model: {error}",
            hint=f"Use 'all-linear', or some of its linear layers: {', '.join(linear)}.",
        ) from error
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return tuned


def save_adapter(model: "PeftModel", folder: Path, *, base: BaseModelFiles | None = None) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json` into an existing folder; plain PEFT loads them.

    With `base`, also `base.json`, which says whose weights the adapter was trained on. The same adapter always gives
    the same bytes.
    """
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save

    # "auto" would ask the hub whether the vocabulary was resized; it never is here.
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {name: state[name].detach().float().cpu().contiguous() for name in sorted(state)}
    write_whole(folder / "adapter_model.safetensors", save(tensors, metadata={"format": "pt"}))
    settings = copy.copy(model.peft_config["default"])
    if not isinstance(settings.target_modules, str):
        settings.target_modules = sorted(settings.target_modules)  # PEFT keeps a set, which has no fixed order
    settings.inference_mode = True
    settings.base_model_name_or_path = None
    if base is not None:
        settings.base_model_name_or_path = base.name
        facts = {key: value for key, value in asdict(base).items() if key != "path"}
        write_json(folder / "base.json", facts)
    with naming(folder / "adapter_config.json"):
        settings.save_pretrained(str(folder))


def load_adapter(model: "PreTrainedModel", folder: Path, *, base: BaseModelFiles | None = None) -> "PeftModel":
    """Put a saved adapter into its base model, in place, for answering.

    Raises:
        SourceError: files are missing or do not fit, or `base` is not the base model that the adapter was trained on.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise SourceError(
                f"{str(folder)!r} is no adapter: it has no {name}.",
                hint="Give the adapter folder of a finished run, or train again.",
            )
    if base is not None and (folder / "base.json").is_file():
        trained_on = json.loads((folder / "base.json").read_text(encoding="utf-8"))
        if trained_on["digest"] != base.digest:
            raise SourceError(
                f"The adapter in {str(folder)!r} was trained on {trained_on['name']!r} with the digest "
                f"{trained_on['digest'][:12]}, and this base model is {base.name!r} with {base.digest[:12]}.",
                hint="Load the base model that the adapter was trained on, or train again.",
            )
    try:
        with _known_warning_silenced():
            # Else PEFT loads it by way of any GPU that is there.
            return PeftModel.from_pretrained(model, str(folder), is_trainable=False, torch_device=str(model.device))
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise SourceError(
            f"The adapter in {str(folder)!r} does not fit this base model: {error}",
            hint="Load the base model that the adapter was trained on, or train again.",
        ) from error


def merge(model: "PeftModel") -> "PreTrainedModel":
    """Add the adapter into the base weights, in place, and return the plain model: base + adapter, and faster.

    Raises:
        RunError: the base weights are quantized; rounding the sum to 4 or 8 bits would change the model.
        DivergedError: the adapter holds NaN or infinity.
    """
    if is_quantized(model):
        raise RunError(
            "An adapter cannot be merged into quantized weights without changing what the model says.",
            hint="Load the base model again with quantization 'none', put the adapter in, and merge that.",
        )
    try:
        return model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise DivergedError(
            f"The adapter cannot be merged: {error}", hint="Train again with a lower train.learning_rate."
        ) from error


def stays_finite(model: "PeftModel") -> bool:
    """Whether every base weight with its update is a finite number in the base's own format, float16's range counted.

    Of a quantized base the updates alone are looked at; its weights are small.
    """
    import torch
    from peft.tuners.lora import LoraLayer

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LoraLayer) and "default" in module.lora_A:
                update = module.get_delta_weight("default")
                weight = module.get_base_layer().weight
                if hasattr(weight, "full_tensor"):  # a base in parts, which all processes look at together
                    weight = weight.full_tensor()
                merged = update if not weight.is_floating_point() else weight + update.to(weight.dtype)
                if not merged.isfinite().all():
                    return False
    return True


def is_quantized(model: "PeftModel | PreTrainedModel") -> bool:
    """Whether weights are held as integers (bitsandbytes)."""
    return any(not parameter.is_floating_point() for parameter in model.parameters())


def logits_change(model: "PeftModel", input_ids: Sequence[int]) -> float:
    """Largest absolute difference that the adapter makes to any logit of one row; 0.0 when it is not applied."""
    import torch

    row = torch.tensor([list(input_ids)], device=model.device)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            tuned = model(input_ids=row).logits.float()
            with model.disable_adapter():
                base = model(input_ids=row).logits.float()
    finally:
        model.train(was_training)
    return float((tuned - base).abs().max())


def _takes_head(model: "PreTrainedModel", targets: str | tuple[str, ...]) -> bool:
    head = model.get_output_embeddings()
    name = next(name for name, part in model.named_modules() if part is head)
    if isinstance(targets, str):
        return targets != "all-linear" and re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


@contextmanager
def _known_warning_silenced() -> Iterator[None]:
    """Silence PEFT's use of a name that transformers deprecates; users can do nothing about it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield
