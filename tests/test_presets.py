"""Every preset that ships loads."""

import pytest

from vademecum.config import load_config, preset_names


def test_the_presets_are_these() -> None:
    assert preset_names() == ["cpu", "demo", "fsdp-4x12gb", "paper", "qlora-12gb", "qlora-24gb", "qlora-8gb"]


@pytest.mark.parametrize("name", preset_names())
def test_preset_loads(name: str) -> None:
    config = load_config(name)
    assert config.model.name
    assert set(config.generate.systems) >= {"base", "copy", "tuned"}


def test_paper_keeps_the_papers_recipe() -> None:
    config = load_config("paper")
    assert (config.lora.r, config.lora.lora_alpha, config.lora.lora_dropout) == (8, 16, 0.1)
    assert (config.train.batching, config.train.max_length, config.train.per_device_train_batch_size) == (
        "padded",
        512,
        1,
    )
    assert config.split.strategy == "random"
