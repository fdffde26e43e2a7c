"""`vade plan` of the presets for large bases, on cards that are made up: from config.json to what fits, whole."""

import csv
import shutil
from pathlib import Path

import pytest
import torch

from vademecum.config import RunConfig, load_config
from vademecum.errors import ConfigError
from vademecum.hardware import Hardware
from vademecum.planning.choice import fits
from vademecum.stages import Silence, forecast_run, sizing

SHAPES = {
    "SmolLM2-1.7B": ("llama", 1.71e9, (49_152, 2048, 8192, 24, 32, 32), True),
    "Phi-3.5-mini": ("phi3", 3.82e9, (32_064, 3072, 8192, 32, 32, 32), False),
    "Qwen2.5-7B": ("qwen2", 7.62e9, (152_064, 3584, 18_944, 28, 28, 4), False),
    "Llama-3.1-8B": ("llama", 8.03e9, (128_256, 4096, 14_336, 32, 32, 8), False),
}
"""Base → type, weights, (vocabulary, width, MLP, layers, heads, key-value heads), tied embeddings; as published."""
SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
)  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers of every length, the longest beyond 512 tokens."""
    file = tmp_path_factory.mktemp("table") / "long.csv"
    with file.open("w", encoding="utf-8", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["question", "answer", "focus"])
        for number in range(120):
            answer = " ".join(f"word{(number * place) % 997}" for place in range(20 + 10 * number))
            rows.writerow([f"What is condition {number}?", answer, f"condition {number}"])
    return file


def declare(preset: str, base: str, table: Path, tokenizer: Path, folder: Path, *more: str) -> RunConfig:
    """A preset with the shape of a base, of which nothing but the configuration is there, and a small corpus."""
    from transformers import AutoConfig

    kind, _, sizes, tied = SHAPES[base]
    shutil.copytree(tokenizer, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    AutoConfig.for_model(
        kind, **dict(zip(SIZES, sizes, strict=True)), tie_word_embeddings=tied, max_position_embeddings=4096
    ).save_pretrained(folder)
    settings = (f"model.name={folder}", f"corpus.source={table}", "train.max_cut_share=1.0")
    return load_config(preset, [*settings, *more])


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA device with bfloat16 and 24 GB, all of it free; budgets make it smaller."""
    told = Hardware(
        cpu="made up", cores=8, instruction_sets=(), memory_bytes=64 * 10**9, memory_free_bytes=60 * 10**9,
        device="cuda", device_name="made up", device_memory_bytes=25 * 10**9, compute_capability=(8, 6),
        matmul_flops={"float32": 1e13, "bfloat16": 5e13},
    )  # fmt: skip
    monkeypatch.setattr(sizing, "probe_hardware", lambda **_: told)
    monkeypatch.setattr(sizing, "check_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (25 * 10**9, 25 * 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: (8, 6))


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize(
    ("preset", "base"),
    [
        ("qlora-24gb", "Llama-3.1-8B"),
        pytest.param("qlora-8gb", "SmolLM2-1.7B", marks=pytest.mark.slow),
        pytest.param("qlora-12gb", "Phi-3.5-mini", marks=pytest.mark.slow),
        pytest.param("qlora-24gb", "Qwen2.5-7B", marks=pytest.mark.slow),
        pytest.param("fsdp-4x12gb", "Qwen2.5-7B", marks=pytest.mark.slow),
    ],
)
def test_a_large_base_is_planned_on_its_card(
    preset: str, base: str, table: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    config = declare(preset, base, table, tiny_checkpoint, tmp_path / "base")
    plan = forecast_run(config, Silence(), offline=True)
    limit = round((config.budget.memory_gb or 0) * 1e9)
    assert plan.memory_limit_bytes == limit
    assert fits(plan.predicted_peak_bytes["train"], limit)
    assert plan.settings.per_device_train_batch_size * plan.settings.gradient_accumulation_steps == 16
    assert plan.settings.quantization == config.model.quantization
    assert plan.micro_batch_tokens >= 512  # rows that are as long as they may be were weighed
    assert plan.memory.answering_weights_bytes == pytest.approx(
        (2 if plan.answer_quantization == "none" else 0.6) * SHAPES[base][1], rel=0.35
    )
    assert plan.predicted_seconds["train"] > 0
    assert not plan.measured


@pytest.mark.slow
@pytest.mark.usefixtures("card")
def test_on_a_smaller_card_it_is_said_before_what_would_fit(table: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    config = declare("qlora-24gb", "Llama-3.1-8B", table, tiny_checkpoint, tmp_path / "base", "budget.memory_gb=6")
    with pytest.raises(ConfigError, match=r"training does not fit into 6\.00 GB \(budget\.memory_gb\)") as caught:
        forecast_run(config, Silence(), offline=True)
    assert "smaller base model" in caught.value.hint
