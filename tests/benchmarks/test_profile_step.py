"""What an operator's time is counted as, and that a profile accounts for all of it."""

import json
import sys
from pathlib import Path

import pytest
from benchmarks.profile_step import kind_of

from benchmarks import profile_step

RANK, VOCABULARY, WIDTH, ROWS = 16, 49_152, 576, 800
LOGITS, COLUMN = [ROWS, VOCABULARY], [ROWS, 1]


@pytest.mark.parametrize(
    ("name", "shapes", "kind"),
    [
        # The loss, as training/fused.py computes it and on the way back: operators that serve elsewhere too.
        ("aten::max", [LOGITS, [], []], "loss"),
        ("aten::gather", [LOGITS, [], COLUMN, []], "loss"),
        ("aten::sub_", [LOGITS, COLUMN, []], "loss"),
        ("aten::exp_", [LOGITS], "loss"),
        ("aten::sum", [LOGITS, [], [], []], "loss"),
        ("aten::div_", [LOGITS, COLUMN], "loss"),
        ("aten::scatter_add_", [LOGITS, [], COLUMN, COLUMN], "loss"),
        ("aten::mul_", [LOGITS, COLUMN], "loss"),
        ("aten::copy_", [[1, *LOGITS], [1, *LOGITS], []], "loss"),  # to float32
        # The output layer is a product like any other, forward and backward.
        ("aten::addmm", [[VOCABULARY], [ROWS, WIDTH], [WIDTH, VOCABULARY], [], []], "large products"),
        ("aten::mm", [LOGITS, [VOCABULARY, WIDTH]], "large products"),
        ("aten::mm", [[ROWS, WIDTH], [WIDTH, RANK]], "thin products"),
        ("aten::embedding", [[VOCABULARY, WIDTH], [2, 512], [], [], []], "copying"),
        ("aten::sub", [[2, 512, WIDTH], [2, 512, 1], []], "elementwise"),
        ("aten::mul", [[2, 512, WIDTH], []], "elementwise"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", [[2, 9, 512, 64]] * 3, "attention"),
        ("aten::fill_", [[ROWS], []], "filling"),
        ("aten::view", [[2, 512, WIDTH], []], "other"),
        ("aten::item", [[]], "other"),
        ("Optimizer.step#AdamW.step", [], "other"),
    ],
)
def test_the_loss_is_what_works_on_rows_of_the_vocabulary(name: str, shapes: list[list[int]], kind: str) -> None:
    assert kind_of(name, shapes, RANK, VOCABULARY) == kind


@pytest.mark.slow
def test_a_profile_finds_the_loss(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "result.json"
    options = ["--model", str(tiny_checkpoint), "--steps", "1", "--device", "cpu", "--out", str(out)]
    monkeypatch.setenv("VADE_MEDQUAD", str(tmp_path / "none.zip"))
    monkeypatch.setattr(sys, "argv", ["profile_step", *options])
    profile_step.main()
    found = json.loads(out.read_text(encoding="utf-8"))["figures"]
    shares = {name.removeprefix("profile.share."): figure["value"] for name, figure in found.items()}
    assert shares.pop("outside") < 1
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["loss"] > 0.01  # a narrow model's vocabulary is its widest layer
