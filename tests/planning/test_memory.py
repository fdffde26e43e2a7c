"""Memory is predicted from config.json alone, and rises and falls with what decides it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vademecum.config import BudgetConfig, LoraConfig, load_config
from vademecum.errors import SourceError
from vademecum.hardware import CUDA_CONTEXT_BYTES
from vademecum.planning import (
    AnsweringShape,
    MemoryPrediction,
    Quantization,
    TrainingShape,
    memory_limit,
    predict_memory,
)
from vademecum.planning import memory as module
from vademecum.planning.choice import fits

QUANTIZATIONS: tuple[Quantization, ...] = ("none", "nf4")
SHAPE = TrainingShape(
    rows=4, width=128, trained_tokens=300, gradient_checkpointing=False, quantization="none", compact=True
)
PARAMETERS = {"vocab_size": 2048, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration without weights."""
    from transformers import LlamaConfig

    path = tmp_path_factory.mktemp("config")
    LlamaConfig(
        **PARAMETERS, num_attention_heads=4, num_key_value_heads=2, head_dim=16, tie_word_embeddings=False
    ).save_pretrained(path)
    return path


def predict(folder: Path, dtype: str = "float32", dropout: float = 0.0, **changes: Any) -> MemoryPrediction:
    shape = replace(SHAPE, **changes)
    return predict_memory(folder, LoraConfig(lora_dropout=dropout), dtype, shape, AnsweringShape(2, 64, 32))


def test_weights_adapter_and_cache_are_what_arithmetic_says(folder: Path) -> None:
    found = predict(folder)
    width, inner, layers = 64, 160, 6
    linear = layers * (2 * width * width + 2 * width * 32 + 3 * width * inner)
    norms = (2 * layers + 1) * width
    assert found.weights_bytes == 4 * (linear + norms + 2 * 2048 * width)
    ranks = layers * 8 * (4 * width + 2 * (width + 32) + 3 * (width + inner))
    assert found.adapter_bytes == 16 * ranks
    keys_and_values = 2 * layers * 32 * 2 * (64 + 32) * 4
    assert found.cache_bytes == pytest.approx(keys_and_values * (1 + 1 / layers), rel=0.02)


def test_four_bits_shrink_the_linear_layers_alone(folder: Path) -> None:
    full, four, eight = (predict(folder, quantization=kind).weights_bytes for kind in ("none", "nf4", "int8"))
    embeddings = 4 * 2 * 2048 * 64
    assert four - embeddings < (full - embeddings) * 0.14
    assert four < eight < full
    assert predict(folder, quantization="nf4").answering_weights_bytes == full


def test_activations_follow_the_tokens(folder: Path) -> None:
    # So many that the loss's few rows in float32, the same for any number, are of no account.
    one, two = (predict(folder, rows=rows, trained_tokens=rows * 75).activations_bytes for rows in (60, 120))
    assert two == pytest.approx(2 * one, rel=0.02)


def test_checkpointing_takes_less_and_dropout_more(folder: Path) -> None:
    plain = predict(folder).activations_bytes
    assert predict(folder, gradient_checkpointing=True).activations_bytes < 0.8 * plain
    assert predict(folder, dropout=0.1).activations_bytes > 1.1 * plain
    assert predict(folder, dtype="bfloat16").activations_bytes < plain


@pytest.mark.parametrize("packed", [False, True])
def test_keys_and_values_that_are_repeated_are_counted(folder: Path, packed: bool) -> None:
    """Four heads of them where there were two, kept in every layer for the way back."""
    once, again = (
        predict(folder, rows=1, width=512, packed=packed, heads_repeated=on).activations_bytes for on in (False, True)
    )
    copies = 6 * 2 * (4 - 2) * 16 * 512 * 4
    assert 0.9 * copies < again - once < 1.5 * copies


def test_every_trained_token_costs_a_row_of_the_vocabulary(folder: Path) -> None:
    few, many = (predict(folder, trained_tokens=count).activations_bytes for count in (300, 400))
    assert many - few == pytest.approx(100 * 2048 * 4, rel=0.1)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_counting_without_weights_agrees_with_what_a_real_step_allocates(folder: Path, packed: bool) -> None:
    """The oracle: PyTorch's own allocations of a real forward and backward pass, at the full depth."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from vademecum.models import attach_adapter
    from vademecum.planning.tracing import Allocations
    from vademecum.training.fused import fuse_adapters
    from vademecum.training.loss import loss_at
    from vademecum.training.packed import attend_within_examples

    model = attach_adapter(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)), LoraConfig(), 0)
    model.train()
    fuse_adapters(model)
    rows, width = (1, 512) if packed else (4, 128)
    ids = torch.ones(rows, width, dtype=torch.long)
    inputs: dict[str, Any] = {"input_ids": ids, "position_ids": torch.arange(width).repeat(rows, 1)}
    if packed:
        attend_within_examples(model)
        inputs["example_lengths"] = (200, 100, 100, 112)
    some = torch.arange(300)
    allocations = Allocations()
    allocations.disregard(model)
    with allocations.watching():
        loss_at(model, inputs, some, some).backward()  # type: ignore[no-untyped-call]
    predicted = predict(folder, packed=packed, rows=rows, width=width).activations_bytes
    assert predicted == pytest.approx(allocations.peak_bytes, rel=0.02)


def test_a_heap_has_holes_that_compact_memory_has_not(folder: Path) -> None:
    assert predict(folder, compact=False).activations_bytes > 1.3 * predict(folder, compact=True).activations_bytes


def test_a_broken_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}', encoding="utf-8")
    with pytest.raises(SourceError, match="cannot be read") as caught:
        predict(tmp_path)
    assert str(tmp_path) in caught.value.message


GB = 10**9


def test_a_process_may_take_what_is_free_and_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "machine_memory_bytes", lambda: (16 * GB, 3 * GB))
    monkeypatch.setattr(module, "process_memory_bytes", lambda: GB)
    assert memory_limit(BudgetConfig(), "cpu").bytes == round(0.9 * 4 * GB)
    assert memory_limit(BudgetConfig(), "cpu", 2).bytes == round(0.9 * 2 * GB)
    assert memory_limit(BudgetConfig(memory_gb=2.5), "cpu") == (2_500_000_000, "budget.memory_gb")
    assert memory_limit(BudgetConfig(memory_gb=2.5), "cpu", 2).bytes == 1_250_000_000


def test_a_budget_does_not_make_a_machine_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "machine_memory_bytes", lambda: (16 * GB, 3 * GB))
    monkeypatch.setattr(module, "process_memory_bytes", lambda: GB)
    found = memory_limit(BudgetConfig(memory_gb=8), "cpu")
    assert found.bytes == 4 * GB
    assert "budget.memory_gb allows 8 GB" in found.reason


def test_on_a_gpu_its_own_memory_counts_and_each_process_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10 * GB, 24 * GB))  # of the card that is computed on
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: GB)
    monkeypatch.setattr("vademecum.hardware.gpu_free_bytes", lambda: {"this": 10 * GB, "another": GB})
    for processes in (1, 4):
        found = memory_limit(BudgetConfig(), "cuda", processes).bytes
        assert found == round(0.9 * (11 * GB + CUDA_CONTEXT_BYTES))
    assert memory_limit(BudgetConfig(memory_gb=8), "cuda", 4).bytes == 8 * GB
    assert memory_limit(BudgetConfig(memory_gb=20), "cuda").bytes == 11 * GB + CUDA_CONTEXT_BYTES
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (24 * GB - 10**8, 24 * GB))
    # The context was smaller than estimated.
    assert memory_limit(BudgetConfig(), "cuda").bytes == round(0.9 * 24 * GB)


def test_quantized_weights_answer_in_less_memory(tmp_path: Path) -> None:
    from transformers import LlamaConfig

    LlamaConfig(vocab_size=512, hidden_size=256, intermediate_size=512, num_hidden_layers=4).save_pretrained(tmp_path)
    plain, quantized = (
        predict_memory(tmp_path, LoraConfig(), "float32", None, AnsweringShape(2, 64, 32, held))
        for held in QUANTIZATIONS
    )
    assert quantized.cache_bytes == plain.cache_bytes
    assert quantized.answering_weights_bytes < 0.5 * plain.answering_weights_bytes


QWEN_7B = {
    "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4,
}  # fmt: skip
"""The shape of the preset's base, as its publisher gives it."""


def test_a_base_in_parts_fits_the_cards_of_its_preset_and_whole_it_would_not(tmp_path: Path) -> None:
    from transformers import AutoConfig

    AutoConfig.for_model("qwen2", **QWEN_7B, tie_word_embeddings=False).save_pretrained(tmp_path)
    config = load_config("fsdp-4x12gb")
    limit = round((config.budget.memory_gb or 0) * 1e9)
    for shards in (config.train.dp_shard_size, 1):
        training = TrainingShape(
            rows=2, width=config.train.max_length, trained_tokens=900, gradient_checkpointing=True,
            quantization="none", compact=True, shards=shards,
        )  # fmt: skip
        answering = AnsweringShape(8, 128, config.generate.max_new_tokens, "nf4")
        found = predict_memory(tmp_path, config.lora, "bfloat16", training, answering)
        assert fits(found.training_bytes, limit) is (shards == 4)
        assert fits(found.answering_bytes, limit)
