"""The base model, its tokenizer and the adapter."""

from vademecum.models.adapters import (
    attach_adapter,
    is_quantized,
    load_adapter,
    logits_change,
    merge,
    peft_config,
    save_adapter,
    stays_finite,
)
from vademecum.models.checkpoints import BaseModelFiles, can_quantize, load_base, load_tokenizer, locate_base
from vademecum.models.gguf import convert_gguf

__all__ = [
    "BaseModelFiles",
    "attach_adapter",
    "can_quantize",
    "convert_gguf",
    "is_quantized",
    "load_adapter",
    "load_base",
    "load_tokenizer",
    "locate_base",
    "logits_change",
    "merge",
    "peft_config",
    "save_adapter",
    "stays_finite",
]
