"""The loader hands out the very rows of the layout; a row per step, and nothing that is not finite."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
from tests.training.tiny import config, data, examples

from vademecum.errors import DivergedError
from vademecum.training.engine import StepRows, _left_out, build_loader
from vademecum.training.loss import ExampleLoss


def test_the_rows_arrive_as_they_are() -> None:
    rows = examples(10)
    given = data(config(), rows)
    for batch, indices in zip(build_loader(given), given.layout.micro_batches, strict=True):
        for row, index in enumerate(indices):
            assert batch["input_ids"][row, : rows[index].length].tolist() == rows[index].input_ids
            assert batch["labels"][row, : rows[index].length].tolist() == rows[index].labels


def test_a_row_of_step_0_is_the_untrained_model_s_and_no_other() -> None:
    rows: list[dict[str, Any]] = []
    losses = [ExampleLoss("a", 6.0, 2), ExampleLoss("b", 2.0, 2)]
    assert StepRows(rows.append).add_validation(0, losses) == 2.0
    assert rows == [
        {
            "step": 0, "real_tokens": 0, "slots": 0, "examples": 0, "validation_loss": 2.0,
            "validation_rows": [{"id": "a", "nats": 6.0, "tokens": 2}, {"id": "b", "nats": 2.0, "tokens": 2}],
        }
    ]  # fmt: skip
    StepRows(rows.append).add_validation(7, losses)  # gone on from a checkpoint that had its own
    assert len(rows) == 1
    with pytest.raises(DivergedError, match="validation loss of step 0 is nan"):
        StepRows(rows.append).add_validation(0, [ExampleLoss("a", float("nan"), 2)])


@pytest.mark.parametrize(
    ("told", "scaler", "norm", "left_out"),
    [(True, object(), 1.0, True), (False, object(), math.inf, True), (False, object(), 1.0, False),
     (False, None, math.inf, False)],
)  # fmt: skip
def test_a_step_that_a_fused_optimizer_leaves_out_is_noticed(
    told: bool, scaler: object, norm: float, left_out: bool
) -> None:
    accelerator = SimpleNamespace(optimizer_step_was_skipped=told, scaler=scaler)
    assert _left_out(accelerator, norm) is left_out


def test_float16_may_skip_steps_but_not_for_ever() -> None:
    rows: list[dict[str, Any]] = []
    steps = StepRows(rows.append)
    counts = {"real_tokens": 9, "slots": 10, "examples": 2}
    infinite = {"loss": 1.0, "grad_norm": float("inf"), "learning_rate": 1e-3, **counts}
    steps.add(1, infinite, skipped=True, hold=False)
    assert rows[0]["grad_norm"] is None
    with pytest.raises(DivergedError, match="gradient norm of step 2 is inf"):
        steps.add(2, infinite, skipped=False, hold=False)
    with pytest.raises(DivergedError, match="gradient norm"):
        for step in range(3, 40):
            steps.add(step, infinite, skipped=True, hold=False)
