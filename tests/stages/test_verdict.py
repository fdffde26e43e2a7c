"""The command that a report gives to make the run again."""

from pathlib import Path

import pytest
from tests.stages.test_train import plan

from vademecum.config import RunConfig
from vademecum.runs import Run
from vademecum.stages.verdict import _command


@pytest.mark.parametrize(
    ("ended_by", "dtype", "training", "settings"),
    [
        ("epochs", "float32", None, ""),
        ("epochs", "auto", None, "--set model.dtype=float32 "),
        ("budget", "float32", {"status": "diverged", "optimizer_steps": 2}, "train.max_steps=10"),
        ("budget", "float32", {"status": "completed", "optimizer_steps": 7}, "train.max_steps=7"),
    ],
)
def test_it_gives_what_the_machine_and_the_budget_decided(
    tmp_path: Path, ended_by: str, dtype: str, training: dict[str, object] | None, settings: str
) -> None:
    if "max_steps" in settings:
        settings = f"--set budget.minutes=none --set {settings} --set train.warmup_steps=0 "
    config = RunConfig.model_validate({"model": {"dtype": dtype}})
    found = _command(Run(tmp_path / "mine"), config, plan().model_copy(update={"ended_by": ended_by}), training)
    assert found == f"vade run runs/mine/config.json {settings}--out runs/mine-again"
