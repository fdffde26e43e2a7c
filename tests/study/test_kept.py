"""What is kept of ended trials is enough for the verdicts, belongs to one study alone, and holds no text."""

import json
import shutil
from pathlib import Path

import pytest
from tests.study.test_execution import SMALL, finished, tiny_study, work  # noqa: F401  a fixture

from vademecum.errors import StaleError


def carry(study: Path, elsewhere: Path) -> Path:
    """The results of a study, and nothing else, on another machine."""
    shutil.copytree(study / "results", elsewhere / "results")
    return elsewhere


def test_a_study_goes_on_from_the_results_alone(finished: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:  # noqa: F811
    folder = carry(finished, tmp_path / "small")
    (folder / "results" / "learning-rate=5e-3-seed0.json").unlink()
    found, listener = work(tiny_study(tiny_checkpoint, **SMALL), folder)
    assert [path.name for path in (folder / "trials").iterdir()] == ["learning-rate=5e-3-seed0"]
    assert "2 of the trials were ended elsewhere, and count" in listener.said
    before = json.loads((finished / "study.json").read_text(encoding="utf-8"))
    assert (found["claims"], found["noise_floor"]) == (before["claims"], before["noise_floor"])
    assert "2 trials of 3 ended on another machine" in (folder / "study.md").read_text(encoding="utf-8")
    names = {path.name for path in (finished / "results").iterdir()}
    assert {path.name for path in (folder / "results").iterdir()} == names
    assert "ended on another machine" not in (finished / "study.md").read_text(encoding="utf-8")


def test_what_is_kept_holds_no_text_and_no_path(finished: Path, tiny_checkpoint: Path) -> None:  # noqa: F811
    kept = "".join(path.read_text(encoding="utf-8") for path in (finished / "results").iterdir())
    rows = (finished / "shared" / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(row)[name] for row in rows for name in ("question", "answer")]
    assert len(texts) > 100
    assert not [text for text in texts if text[:40] in kept]
    assert str(tiny_checkpoint.parent) not in kept
    assert str(finished.parent) not in kept


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("train.weight_decay=0.1",), "ended with another settings than"),
        (("split.test=0.31", "split.train=0.61"), "ended with another settings, another corpus than"),
        (("margins.rouge=0.5",), "ended with another claims than"),
        (("model.dtype=bfloat16",), "ended with another settings, another number format than"),
    ],
)
def test_results_of_another_study_are_refused(
    finished: Path,  # noqa: F811
    tiny_checkpoint: Path,
    tmp_path: Path,
    change: tuple[str, ...],
    words: str,
) -> None:
    with pytest.raises(StaleError, match=words):
        work(tiny_study(tiny_checkpoint, *change, **SMALL), carry(finished, tmp_path / "small"))
    assert not (tmp_path / "small" / "trials").is_dir()


def test_a_seed_that_was_seen_elsewhere_is_not_dropped(
    finished: Path,  # noqa: F811
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> None:
    study = tiny_study(tiny_checkpoint, **(SMALL | {"baseline_seeds": (0, 2)}))
    with pytest.raises(StaleError, match=r"baseline-seed1\.json is the result of a trial that is not declared"):
        work(study, carry(finished, tmp_path / "small"))
