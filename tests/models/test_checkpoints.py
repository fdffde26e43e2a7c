"""Base models: found, named by their digest, loaded as asked. What is refused: `bad_models.py`."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vademecum.config import ModelConfig
from vademecum.errors import InputError
from vademecum.models import load_base, load_tokenizer, locate_base


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


def locate(path: Path) -> Any:
    return locate_base(ModelConfig(name=str(path)), offline=True)


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_local_directory_is_located_without_showing_its_path(checkpoint: Path) -> None:
    files = locate(checkpoint)
    assert files.path == checkpoint
    assert (files.name, files.origin) == ("model", "a local directory")


def test_the_digest_follows_weights_and_configuration_and_nothing_else(checkpoint: Path) -> None:
    before = locate(checkpoint).digest
    (checkpoint / "README.md").write_text("words")
    assert locate(checkpoint).digest == before
    weights = bytearray((checkpoint / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (checkpoint / "model.safetensors").write_bytes(weights)
    changed = locate(checkpoint).digest
    edit(checkpoint / "config.json", lambda config: config.update(rope_theta=5.0))
    assert len({before, changed, locate(checkpoint).digest}) == 3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_model_is_loaded_as_asked(tiny_checkpoint: Path, dtype: str) -> None:
    model = load_base(tiny_checkpoint, ModelConfig(), dtype=dtype, device="cpu")
    assert str(model.dtype) == f"torch.{dtype}"
    assert model.device.type == "cpu"
    assert model.config._attn_implementation == "sdpa"


def test_loading_prints_nothing(tiny_checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_tokenizer(tiny_checkpoint)
    load_base(tiny_checkpoint, ModelConfig(), dtype="float32", device="cpu")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_quantization_stays_near_the_full_weights(tmp_path: Path, quantization: str) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    pytest.importorskip("bitsandbytes")
    # On a CPU with AVX-512 bitsandbytes 0.50 unpacks rows in error that are no whole number of blocks of 64.
    shape = {"vocab_size": 400, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=2, num_key_value_heads=2)).save_pretrained(tmp_path)
    row = torch.tensor([[1, 300, 310, 320]])
    config = ModelConfig.model_validate({"quantization": quantization})
    with torch.inference_mode():
        full = load_base(tmp_path, ModelConfig(), dtype="float32", device="cpu")(row).logits
        rough = load_base(tmp_path, config, dtype="float32", device="cpu")(row).logits
    difference = float((full - rough.float()).abs().mean() / full.abs().mean())
    assert 0 < difference < 0.5


def test_a_gpu_without_room_is_not_taken_for_a_damaged_file(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", full)
    with pytest.raises(torch.OutOfMemoryError):
        load_base(tiny_checkpoint, ModelConfig(), dtype="float32", device="cpu")


def test_a_missing_bitsandbytes_names_the_extra(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError) as caught:
        load_base(tiny_checkpoint, ModelConfig(quantization="nf4"), dtype="float32", device="cpu")
    assert "nf4" in caught.value.message
    assert "pip install '.[quantized]' in the checkout" in caught.value.hint


@pytest.mark.parametrize(("unknown", "pads_with"), [("<|endoftext|>", "<|endoftext|>"), (None, "<|im_end|>")])
def test_a_tokenizer_without_pad_gets_one_and_no_new_token(
    checkpoint: Path, unknown: str | None, pads_with: str
) -> None:
    before = len(load_tokenizer(checkpoint))
    edit(checkpoint / "tokenizer_config.json", lambda settings: settings.update(pad_token=None, unk_token=unknown))
    tokenizer = load_tokenizer(checkpoint)
    assert tokenizer.pad_token == pads_with
    assert len(tokenizer) == before


def test_a_tokenizer_without_chat_template_keeps_none(checkpoint: Path) -> None:
    edit(checkpoint / "tokenizer_config.json", lambda settings: settings.pop("chat_template"))
    assert load_tokenizer(checkpoint).chat_template is None


def test_the_lookalike_has_the_traits_that_it_stands_for(tinyllama_lookalike: Path) -> None:
    tokenizer = load_tokenizer(tinyllama_lookalike)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<s>", "</s>", "</s>")
    text = "Naïve? 中 <|user|>"
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    assert chat == "<|user|>\nHi</s>\n<|assistant|>\n"
    assert "<|user|>" not in tokenizer.get_vocab()
