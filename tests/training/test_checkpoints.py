"""Only a checkpoint that is whole, and whose rows are there, is gone on from."""

from pathlib import Path

import pytest

from vademecum.training.checkpoints import is_whole, newest_checkpoint, seal


def make(folder: Path, *steps: int) -> None:
    for step in steps:
        place = folder / f"checkpoint-{step}"
        place.mkdir()
        for name in ("optimizer.pt", "trainer_state.json"):
            (place / name).write_text(f"{name} of {step}", encoding="utf-8")
        seal(place)


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "absent", 9, pytest.fail) is None


@pytest.mark.parametrize(
    "harm",
    [
        lambda place: (place / "whole.json").unlink(),
        lambda place: (place / "whole.json").write_text('{"optimizer.pt"', encoding="utf-8"),
        lambda place: (place / "optimizer.pt").unlink(),
        lambda place: (place / "optimizer.pt").write_text("optimi", encoding="utf-8"),
    ],
    ids=["no seal", "half a seal", "a file is gone", "a file is cut"],
)
def test_a_damaged_one_falls_back_to_the_one_before(tmp_path: Path, harm: object) -> None:
    make(tmp_path, 2, 9, 10)
    assert callable(harm)
    harm(tmp_path / "checkpoint-10")
    assert not is_whole(tmp_path / "checkpoint-10")
    said: list[str] = []
    assert newest_checkpoint(tmp_path, 10, said.append) == tmp_path / "checkpoint-9"
    assert said == ["checkpoint-10 (incomplete or damaged) cannot be gone on from: going back to checkpoint-9"]
    assert not (tmp_path / "checkpoint-10").exists()


def test_one_that_is_ahead_of_the_log_is_passed_over(tmp_path: Path) -> None:
    make(tmp_path, 2, 4)
    said: list[str] = []
    assert newest_checkpoint(tmp_path, 3, said.append) == tmp_path / "checkpoint-2"
    assert newest_checkpoint(tmp_path, 0, said.append) is None
    assert said[-1] == "checkpoint-2 (rows lost) cannot be gone on from: training starts anew"
