"""Every model of the table in `bad_models.py` ends as it is written there, before anything is trained."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.bad_models import TABLE, Model, Works, put

from vademecum.config import LoraConfig, ModelConfig, PromptConfig
from vademecum.errors import InputError, SourceError
from vademecum.models import attach_adapter, load_adapter, load_base, load_tokenizer, locate_base, save_adapter
from vademecum.prompts import build_messages, encode_answer, encode_prompt, end_token_id

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


def look(path: Path) -> Any:
    """What the stage `plan` does with a model before it measures anything; the tokenizer."""
    files = locate_base(ModelConfig(name=str(path)), offline=True)
    tokenizer = load_tokenizer(files.path)
    end_token_id(tokenizer)
    row = encode_prompt(tokenizer, build_messages("What is gout?", PromptConfig())) + encode_answer(tokenizer, "Pain.")
    model: Any = load_base(files.path, ModelConfig(), dtype="float32", device="cpu")
    with torch.inference_mode():
        assert model(input_ids=torch.tensor([row])).logits.isfinite().all()
    return tokenizer


@pytest.mark.parametrize("one", TABLE, ids=[one.name for one in TABLE])
def test_ends_as_specified(
    one: Model, tiny_checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    one.spoil(path)
    capfd.readouterr()
    if isinstance(one.must, Works):
        assert look(path).pad_token == one.must.pads_with
        return
    with pytest.raises(InputError) as caught:
        look(path)
    for part in one.must.found:
        assert part in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert "LOAD REPORT" not in capfd.readouterr().err


def test_weights_that_16_bits_cannot_hold_are_refused_there_alone(tiny_checkpoint: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    put("model.norm.weight", 70_000.0)(path)
    with pytest.raises(SourceError, match="which float16 cannot hold"):
        load_base(path, ModelConfig(), dtype="float16", device="cpu")
    load_base(path, ModelConfig(), dtype="bfloat16", device="cpu")


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_quantizing_does_not_hide_nan(tinyllama_lookalike: Path, tmp_path: Path, quantization: str) -> None:
    pytest.importorskip("bitsandbytes")
    path = Path(shutil.copytree(tinyllama_lookalike, tmp_path / "model"))
    put("model.layers.0.mlp.up_proj.weight", float("nan"))(path)
    config = ModelConfig.model_validate({"quantization": quantization})
    with pytest.raises(SourceError, match="NaN or infinity"):
        load_base(path, config, dtype="float32", device="cpu")


def test_damaged_adapters_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    def base() -> Any:
        return load_base(tiny_checkpoint, ModelConfig(), dtype="float32", device="cpu")

    save_adapter(attach_adapter(base(), LoraConfig(), seed=0), tmp_path)
    weights, settings = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-50])
    with pytest.raises(SourceError, match="does not fit"):
        load_adapter(base(), tmp_path)
    weights.write_bytes(whole)
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "r": "many"}))
    with pytest.raises(SourceError, match="does not fit"):
        load_adapter(base(), tmp_path)
    settings.write_text("{")
    with pytest.raises(SourceError, match="does not fit"):
        load_adapter(base(), tmp_path)


def test_the_page_gives_the_table_s_numbers() -> None:
    found = re.search(r"(\d+) models tried, (\d+) as specified: (\d+) used, (\d+) refused", PAGE.read_text("utf-8"))
    assert found is not None
    used = sum(isinstance(one.must, Works) for one in TABLE)
    assert [int(number) for number in found.groups()] == [len(TABLE), len(TABLE), used, len(TABLE) - used]
    assert len({one.name for one in TABLE}) == len(TABLE)
