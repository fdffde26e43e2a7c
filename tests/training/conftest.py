"""The tiny model with an adapter, and one thread to run it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tests.training.tiny import Build
from transformers import AutoModelForCausalLM, AutoTokenizer


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread: tiny tensors run faster, and sums do not depend on how many cores are free."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def build(tiny_checkpoint: Path) -> Build:
    """Builds the tiny model with a fresh adapter; `warm` gives the adapter an effect from the start."""

    def build_model(*, warm: bool = False, dropout: float = 0.0, **loading: Any) -> PeftModel:
        base = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32, **loading)
        torch.manual_seed(5)
        lora = LoraConfig(r=4, lora_alpha=8, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(base, lora)
        if warm:
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(weight, std=0.3)
        return model

    return build_model


@pytest.fixture
def tokenizer(tiny_checkpoint: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_checkpoint)
