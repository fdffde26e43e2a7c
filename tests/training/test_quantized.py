"""Adapters are really trained on 8- and 4-bit weights, and serve without them: saved, loaded, merged, answering."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.tiny import Memory, config, data, examples

from vademecum.config import LoraConfig, ModelConfig
from vademecum.generation import Decoding, KeptAnswers, Prompt, generate
from vademecum.models import attach_adapter, is_quantized, load_adapter, load_base, merge, save_adapter
from vademecum.training.loss import example_losses, per_token
from vademecum.training.trainer import train

pytest.importorskip("bitsandbytes")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # peft 0.21 reads a property that transformers 5.23 renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
ROWS = examples(24)


def quantized(folder: Path, quantization: str, dtype: str) -> Any:
    setting = ModelConfig.model_validate({"quantization": quantization})
    return attach_adapter(load_base(folder, setting, dtype=dtype, device="cpu"), LoraConfig(), seed=0)


def trainable(model: Any) -> list[torch.Tensor]:
    return [weight for weight in model.parameters() if weight.requires_grad]


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="the system does not tell what is mapped")
@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_weights_in_few_bits_do_not_keep_the_file_of_the_whole_ones_in_memory(
    tiny_checkpoint: Path, tmp_path: Path, quantization: str
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_checkpoint, folder)

    model = quantized(folder, quantization, "float32")

    assert str(folder) not in Path("/proc/self/maps").read_text(encoding="utf-8")
    assert model.get_input_embeddings().weight is not None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_trained_on_few_bits_it_serves_in_full_ones(
    tiny_checkpoint: Path, tokenizer: Any, tmp_path: Path, quantization: str, dtype: str
) -> None:
    model = quantized(tiny_checkpoint, quantization, dtype)
    frozen = {name: weight.clone() for name, weight in model.named_parameters() if not weight.requires_grad}
    knobs, sink = config(max_steps=12, learning_rate=0.02), Memory(tmp_path / "checkpoints")
    train(model, tokenizer, data(knobs, ROWS, dtype=dtype), knobs, sink, seed=0)
    assert sink.rows[-1]["loss"] < sink.rows[0]["loss"] - 0.3
    assert is_quantized(model)
    assert {weight.dtype for weight in trainable(model)} == {torch.float32}
    assert all(torch.equal(weight, frozen[name]) for name, weight in model.named_parameters() if name in frozen)

    (tmp_path / "adapter").mkdir()
    save_adapter(model, tmp_path / "adapter")
    full = load_base(tiny_checkpoint, ModelConfig(), dtype="bfloat16", device="cpu")
    before = per_token(example_losses(full, ROWS, pad_id=0, most_tokens=256))
    merged = merge(load_adapter(full, tmp_path / "adapter"))
    assert {weight.dtype for weight in merged.parameters()} == {torch.bfloat16}
    assert per_token(example_losses(merged, ROWS, pad_id=0, most_tokens=256)) < before - 0.3

    kept = KeptAnswers()
    prompts = [Prompt(str(number), row.input_ids[:6]) for number, row in enumerate(ROWS[:3])]
    generate(merged, tokenizer, prompts, Decoding(max_new_tokens=6), kept)
    assert sorted(prediction.id for prediction in kept.predictions) == ["0", "1", "2"]
    assert all(0 < prediction.new_tokens <= 6 for prediction in kept.predictions)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_nf4_is_quantized_twice_and_computes_in_what_was_asked_for(tiny_checkpoint: Path, dtype: str) -> None:
    from bitsandbytes.nn import Linear4bit

    layers = [part for part in quantized(tiny_checkpoint, "nf4", dtype).modules() if isinstance(part, Linear4bit)]
    assert len(layers) == 2 * 7
    assert {layer.weight.quant_state.quant_type for layer in layers} == {"nf4"}
    assert all(layer.weight.quant_state.nested for layer in layers)
    assert {layer.compute_dtype for layer in layers} == {getattr(torch, dtype)}


def test_four_bit_weights_keep_their_layout_on_processors_with_bfloat16(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There bitsandbytes would write them anew for a kernel of its own, at the first call without gradients."""
    from bitsandbytes.nn import Linear4bit

    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    assert Linear4bit(64, 64).support_avx512bf16_for_cpu
    layers = [part for part in quantized(tiny_checkpoint, "nf4", "float32").modules() if isinstance(part, Linear4bit)]
    assert layers and not any(layer.support_avx512bf16_for_cpu for layer in layers)


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_under_float16_adapters_and_their_gradients_are_float32(tiny_checkpoint: Path, quantization: str) -> None:
    """What a card without bfloat16 does; the Trainer refuses float16 on a CPU, so this is a step by hand."""
    model = quantized(tiny_checkpoint, quantization, "float16")
    row = torch.tensor([ROWS[0].input_ids])
    with torch.autocast("cpu", dtype=torch.float16):
        loss = model(input_ids=row, labels=row).loss
    loss.backward()
    weights = trainable(model)
    assert {weight.dtype for weight in weights} == {torch.float32}
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    assert len(gradients) == len(weights)
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert any(bool(gradient.any()) for gradient in gradients)
