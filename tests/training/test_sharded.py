"""A base in parts takes a part of the memory, and computes the same."""

import subprocess
import sys
from pathlib import Path

import pytest
from torch.nn import Module
from transformers import LlamaConfig

from vademecum.config import LoraConfig, RunConfig
from vademecum.errors import ConfigError
from vademecum.planning import TrainingShape, predict_memory
from vademecum.training.sharded import layers_of

TWO = """
import sys
import torch
from transformers import AutoModelForCausalLM
from vademecum.config import LoraConfig
from vademecum.models import attach_adapter, logits_change, stays_finite
from vademecum.training import shard_base

torch.distributed.init_process_group("gloo")
model = attach_adapter(AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32), LoraConfig(), 0)
for name, weight in model.named_parameters():
    if "lora_B" in name:
        torch.nn.init.constant_(weight, 0.01)
ids = torch.arange(5, 25)[None]
frozen = lambda: [weight for weight in model.parameters() if not weight.requires_grad]
whole = sum(weight.numel() for weight in frozen())
expected, change = model(ids).logits, logits_change(model, range(5, 25))
shard_base(model, "cpu")
here = sum(weight.to_local().numel() for weight in frozen())
assert abs(here - whole / 2) < 0.01 * whole, (here, whole)
assert torch.allclose(model(ids).logits, expected, atol=1e-5)
assert abs(logits_change(model, range(5, 25)) - change) < 1e-5
assert stays_finite(model)
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def test_each_of_two_processes_keeps_half_and_computes_as_with_all(tiny_checkpoint: Path, tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO, encoding="utf-8")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    found = subprocess.run(
        [sys.executable, *launcher, script, tiny_checkpoint],
        capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr


def test_the_plan_knows_what_a_part_takes(tmp_path: Path) -> None:
    """A share of everything, embedding, head and norm twice, and a layer."""
    LlamaConfig(
        vocab_size=1000, hidden_size=64, intermediate_size=160, num_hidden_layers=12, num_attention_heads=4,
        tie_word_embeddings=False,
    ).save_pretrained(tmp_path)  # fmt: skip
    shape = TrainingShape(
        rows=1, width=64, trained_tokens=30, gradient_checkpointing=True, quantization="none", compact=True, shards=4
    )
    layer = 4 * 64 * 64 + 3 * 64 * 160 + 2 * 64
    outside = 2 * 1000 * 64 + 64
    found = predict_memory(tmp_path, LoraConfig(), "bfloat16", shape, None).weights_bytes
    assert found == pytest.approx(2 * ((12 * layer + outside) / 4 + outside + layer + max(layer, outside)), rel=1e-6)


def test_quantized_weights_are_not_kept_in_parts() -> None:
    with pytest.raises(ValueError, match=r"dp_shard_size needs model\.quantization"):
        RunConfig.model_validate({"model": {"quantization": "nf4"}, "train": {"dp_shard_size": 2}})


def test_a_model_without_named_layers_is_refused() -> None:
    class Odd(Module):
        _no_split_modules = None
        config = LlamaConfig(model_type="odd")

    with pytest.raises(ConfigError, match="cannot be kept in parts"):
        layers_of(Odd())
