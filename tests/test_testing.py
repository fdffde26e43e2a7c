"""The public stand-ins: the same call gives the same bytes, and pairs have the variety that tests count on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from vademecum.testing import build_tiny_checkpoint, build_tinyllama_lookalike, tiny_pairs


def test_pairs_are_distinct_and_varied() -> None:
    pairs = tiny_pairs(1200)
    assert len({pair.id for pair in pairs}) == 1200
    assert len({pair.question for pair in pairs}) == 1200
    assert len({pair.answer for pair in pairs}) == 1200
    assert len({pair.focus for pair in pairs}) == 400
    assert {pair.source for pair in pairs} == {"North Clinic", "South Clinic"}
    assert len({pair.qtype for pair in pairs[:6]}) >= 3
    assert tiny_pairs(7) == pairs[:7]


@pytest.mark.parametrize("build", [build_tiny_checkpoint, build_tinyllama_lookalike])
def test_a_checkpoint_is_the_same_each_time(build: Callable[[Path], Path], tmp_path: Path) -> None:
    one, two = build(tmp_path / "one"), build(tmp_path / "two")
    names = sorted(entry.name for entry in one.iterdir())
    assert names == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)


def test_given_texts_are_learnt_by_the_tokenizer(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = build_tiny_checkpoint(tmp_path, ["electroencephalography"] * 500)
    assert len(AutoTokenizer.from_pretrained(folder)("electroencephalography")["input_ids"]) < 5
