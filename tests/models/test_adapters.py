"""Adapters: what they touch, that the same adapter gives the same bytes, and that merging changes nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vademecum.config import LoraConfig, ModelConfig
from vademecum.errors import ConfigError, DivergedError, RunError, SourceError
from vademecum.models import (
    BaseModelFiles,
    attach_adapter,
    is_quantized,
    load_adapter,
    load_base,
    logits_change,
    merge,
    peft_config,
    save_adapter,
    stays_finite,
)

ROW = [1, 40, 50, 60, 70, 80, 2]
Load = Callable[[], Any]


@pytest.fixture
def load(tiny_checkpoint: Path) -> Load:
    """A fresh base model at each call: adapters are put in, and merged, in place."""
    return lambda: load_base(tiny_checkpoint, ModelConfig(), dtype="float32", device="cpu")


def logits(model: Any) -> torch.Tensor:
    model.eval()
    with torch.inference_mode():
        return torch.Tensor(model(input_ids=torch.tensor([ROW])).logits)


def trained(model: Any) -> Any:
    """Stand in for training: every adapter weight gets a fixed value that is not zero."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model


def adapter_weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize(
    ("field", "value", "arrives"),
    [
        ("r", 3, 3),
        ("lora_alpha", 5, 5),
        ("lora_dropout", 0.25, 0.25),
        ("target_modules", ("q_proj", "v_proj"), {"q_proj", "v_proj"}),
        ("target_modules", "all-linear", "all-linear"),
    ],
)
def test_every_setting_arrives_in_peft(field: str, value: Any, arrives: Any) -> None:
    assert peft_config(LoraConfig.model_validate({field: value})).to_dict()[field] == arrives


def test_no_setting_is_left_out_of_the_test_above() -> None:
    assert set(LoraConfig.model_fields) == {"r", "lora_alpha", "lora_dropout", "target_modules"}


def test_all_linear_is_attention_and_mlp_and_never_the_head(load: Load) -> None:
    names = adapter_weights(attach_adapter(load(), LoraConfig(), seed=0))
    touched = {name.split(".lora_")[0].split(".")[-1] for name in names}
    assert touched == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert len(names) == 2 * 7 * 2  # A and B, seven layers, two blocks


@pytest.mark.parametrize(
    ("targets", "found"),
    [(("attention",), "q_proj"), ("(", "q_proj"), (("lm_head", "q_proj"), "head"), (".*_(head|proj)", "head")],
)
def test_targets_that_do_not_fit_are_refused(load: Load, targets: Any, found: str) -> None:
    with pytest.raises(ConfigError, match="target_modules") as caught:
        attach_adapter(load(), LoraConfig(target_modules=targets), seed=0)
    assert found in caught.value.hint


def test_a_fresh_adapter_changes_nothing(load: Load) -> None:
    before = logits(load())
    model = attach_adapter(load(), LoraConfig(), seed=0)
    assert torch.equal(logits(model), before)
    assert logits_change(model, ROW) == 0.0


def test_a_trained_adapter_is_seen_in_the_logits(load: Load) -> None:
    before = logits(load())
    model = trained(attach_adapter(load(), LoraConfig(lora_dropout=0.5), seed=0))
    model.train()
    change = logits_change(model, ROW)
    assert model.training
    assert change == pytest.approx(float((logits(model) - before).abs().max()), abs=1e-6)
    assert change > 0.1


def test_the_start_depends_on_the_seed_alone(load: Load) -> None:
    torch.manual_seed(123)
    state = torch.get_rng_state()
    first = adapter_weights(attach_adapter(load(), LoraConfig(), seed=7))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(456)
    again = adapter_weights(attach_adapter(load(), LoraConfig(), seed=7))
    other = adapter_weights(attach_adapter(load(), LoraConfig(), seed=8))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_trainable_weights_are_float32_on_a_16_bit_base(tiny_checkpoint: Path) -> None:
    base = load_base(tiny_checkpoint, ModelConfig(), dtype="bfloat16", device="cpu")
    assert base.dtype == torch.bfloat16
    model = attach_adapter(base, LoraConfig(), seed=0)
    assert {weight.dtype for weight in adapter_weights(model).values()} == {torch.float32}


def test_merged_equals_base_and_adapter(load: Load) -> None:
    model = trained(attach_adapter(load(), LoraConfig(), seed=0))
    want = logits(model)
    merged = merge(model)
    assert torch.allclose(logits(merged), want, atol=1e-5, rtol=0)
    assert not any("lora" in name for name, _ in merged.named_modules())


def test_an_adapter_with_nan_is_not_merged(load: Load) -> None:
    model = trained(attach_adapter(load(), LoraConfig(), seed=0))
    next(iter(adapter_weights(model).values()))[0, 0] = float("nan")
    with pytest.raises(DivergedError):
        merge(model)


# PEFT's own use of a deprecated name; `load_adapter` silences it, and plain PEFT does not.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_saved_adapter_loads_the_same_here_and_with_plain_peft(load: Load, tmp_path: Path) -> None:
    from peft import PeftModel

    model = trained(attach_adapter(load(), LoraConfig(), seed=0))
    save_adapter(model, tmp_path)
    want = logits(model)
    assert torch.equal(logits(load_adapter(load(), tmp_path)), want)
    assert torch.equal(logits(PeftModel.from_pretrained(load(), str(tmp_path))), want)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_the_same_adapter_gives_the_same_bytes(load: Load, tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        save_adapter(trained(attach_adapter(load(), LoraConfig(), seed=0)), tmp_path / name)
        contents.append({entry.name: entry.read_bytes() for entry in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1]
    targets = json.loads(contents[0]["adapter_config.json"])["target_modules"]
    assert targets == sorted(targets)


def test_an_adapter_shows_no_path_and_knows_its_base(load: Load, tmp_path: Path, tiny_checkpoint: Path) -> None:
    base = BaseModelFiles(tiny_checkpoint, "tiny", "built here", "a" * 64)
    save_adapter(attach_adapter(load(), LoraConfig(), seed=0), tmp_path, base=base)
    written = "".join(entry.read_text() for entry in tmp_path.glob("*.json"))
    assert str(tiny_checkpoint) not in written
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == "tiny"
    load_adapter(load(), tmp_path, base=base)
    other = BaseModelFiles(tiny_checkpoint, "other", "built here", "b" * 64)
    with pytest.raises(SourceError, match=r"'tiny'.*'other'"):
        load_adapter(load(), tmp_path, base=other)


def test_an_adapter_is_loaded_on_a_cpu_without_a_look_at_the_gpu(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained(attach_adapter(load(), LoraConfig(), seed=1))
    save_adapter(model, tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # and is not, so loading by way of it fails
    assert torch.equal(logits(load_adapter(load(), tmp_path)), logits(model))


def test_a_folder_without_an_adapter_is_refused(load: Load, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"adapter_config\.json"):
        load_adapter(load(), tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(SourceError, match=r"adapter_model\.safetensors"):
        load_adapter(load(), tmp_path)


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_quantized_weights_take_an_adapter_and_are_never_merged(tinyllama_lookalike: Path, quantization: str) -> None:
    pytest.importorskip("bitsandbytes")
    config = ModelConfig.model_validate({"quantization": quantization})
    base = load_base(tinyllama_lookalike, config, dtype="float32", device="cpu")
    assert is_quantized(base)
    model = attach_adapter(base, LoraConfig(), seed=0)
    assert logits_change(model, ROW) == 0.0
    trained(model)
    assert logits_change(model, ROW) > 0.1
    with pytest.raises(RunError, match="quantized"):
        merge(model)


def test_an_update_beyond_the_range_of_float16_is_noticed(tiny_checkpoint: Path) -> None:
    for dtype, fits in (("float16", False), ("float32", True)):
        model = trained(
            attach_adapter(load_base(tiny_checkpoint, ModelConfig(), dtype=dtype, device="cpu"), LoraConfig(), 0)
        )
        assert stays_finite(model)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data *= 1e6
        assert stays_finite(model) is fits
