"""What is kept of ended trials is enough for the verdicts, belongs to one study alone, and holds no text."""

import json
import shutil
from pathlib import Path

import pytest
from tests.listener import Listener
from tests.study.test_execution import LATE, SMALL, finished, tiny_study, work  # noqa: F401  a fixture

from vademecum.errors import RunError, StaleError
from vademecum.files import digest_value
from vademecum.study import Setting, StudyConfig, load_study, make_executor
from vademecum.study.design import lay_out_design
from vademecum.study.execution import prepare_study
from vademecum.study.folder import StudyFolder
from vademecum.study.kept import ANSWERS, KeptTrial, _settings, differing

SHIPPED = Path(__file__).parents[2] / "docs" / "results" / "paper-study" / "results"


def carry(study: Path, elsewhere: Path) -> Path:
    """The results of a study, and nothing else, on another machine."""
    shutil.copytree(study / "results", elsewhere / "results")
    return elsewhere


def take_in(study: StudyConfig, path: Path) -> set[str]:
    """The trials that count for a study without having been run in its folder."""
    folder = StudyFolder(path)
    prepare_study(study, folder, Setting(make_executor("local"), Listener()))
    return {kept.result.name for kept in folder.ended_elsewhere}


EVERY = {"baseline-seed0", "baseline-seed1", "learning-rate=5e-3-seed0"}


def test_a_study_goes_on_from_the_results_alone(finished: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:  # noqa: F811
    folder = carry(finished, tmp_path / "small")
    (folder / "results" / "learning-rate=5e-3-seed0.json").unlink()
    found, listener = work(tiny_study(tiny_checkpoint, **SMALL), folder)
    assert [path.name for path in (folder / "trials").iterdir()] == ["learning-rate=5e-3-seed0"]
    assert "2 of the trials were ended elsewhere, and count" in listener.said
    before = json.loads((finished / "study.json").read_text(encoding="utf-8"))
    assert (found["claims"], found["noise_floor"]) == (before["claims"], before["noise_floor"])
    assert "2 trials of 3 ended on another machine" in (folder / "study.md").read_text(encoding="utf-8")
    for part in ("results", "results/judged"):
        assert {path.name for path in (folder / part).iterdir()} == {path.name for path in (finished / part).iterdir()}
    assert "ended on another machine" not in (finished / "study.md").read_text(encoding="utf-8")


def test_what_is_kept_holds_no_text_and_no_path(finished: Path, tiny_checkpoint: Path) -> None:  # noqa: F811
    kept = "".join(path.read_text(encoding="utf-8") for path in (finished / "results").rglob("*.json"))
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
        (("margins.rouge=0.5",), "^the margins would be declared otherwise than before"),
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
    folder = carry(finished, tmp_path / "small")
    with pytest.raises(StaleError, match=words):
        work(tiny_study(tiny_checkpoint, *change, **SMALL), folder)
    assert not (folder / "trials").is_dir()
    assert take_in(tiny_study(tiny_checkpoint, **SMALL), folder) == EVERY  # nothing of the wrong one stays


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"baseline_seeds": (0, 2)}, "^baseline, seed 1 would be dropped"),
        ({"claims": ()}, "^'slower is better' would be declared otherwise"),
        ({"claims": (*SMALL["claims"], LATE)}, "^'it diverges' would be declared otherwise"),
    ],
)
def test_what_was_declared_elsewhere_stands_here(
    finished: Path,  # noqa: F811
    tiny_checkpoint: Path,
    tmp_path: Path,
    change: dict[str, object],
    words: str,
) -> None:
    folder = carry(finished, tmp_path / "small")
    with pytest.raises(StaleError, match=words):
        take_in(tiny_study(tiny_checkpoint, **(SMALL | change)), folder)
    (folder / "results" / "declared.json").unlink()
    with pytest.raises(RunError, match=r"and not declared\.json, which lay beside it"):
        take_in(tiny_study(tiny_checkpoint, **SMALL), folder)


def test_what_a_machine_has_and_what_is_added_leave_the_results_as_they_are(
    finished: Path,  # noqa: F811
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> None:
    claim = {"name": "rank matters", "variant": "rank=2"}
    added: dict[str, object] = {
        "factors": (*SMALL["factors"], {"name": "rank", "levels": ("lora.r=2",)}),
        "claims": (*SMALL["claims"], claim),
        "baseline_seeds": (0, 1, 2),
    }
    here = ("generate.batch_size=8", "train.gradient_checkpointing=true", "budget.memory_gb=5", "train.save_steps=3")
    study = tiny_study(tiny_checkpoint, *here, **(SMALL | added))
    assert take_in(study, carry(finished, tmp_path / "small")) == EVERY


def test_a_base_model_of_the_same_name_with_other_weights_is_another(
    finished: Path,  # noqa: F811
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> None:
    other = shutil.copytree(tiny_checkpoint, tmp_path / tiny_checkpoint.name)
    (other / "config.json").write_text((other / "config.json").read_text() + " ")
    with pytest.raises(StaleError, match="ended with another base model than"):
        take_in(tiny_study(other, **SMALL), carry(finished, tmp_path / "small"))


def test_two_results_of_one_trial_are_not_chosen_between(
    finished: Path,  # noqa: F811
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> None:
    folder = shutil.copytree(finished, tmp_path / "small")
    file = folder / "results" / "baseline-seed1.json"
    whole = file.read_text(encoding="utf-8")
    file.write_text(json.dumps(json.loads(whole) | {"training": "0" * 64}), encoding="utf-8")
    with pytest.raises(StaleError, match=r"baseline-seed1\.json is another result of a trial that has ended in"):
        take_in(tiny_study(tiny_checkpoint, **SMALL), folder)
    (folder / "trials" / "baseline-seed1" / "manifest.json").unlink()  # begun here, and ended elsewhere
    assert take_in(tiny_study(tiny_checkpoint, **SMALL), folder) == {"baseline-seed1"}


def test_a_damaged_result_is_named_where_its_trial_was_not_run_and_made_anew_where_it_was(
    finished: Path,  # noqa: F811
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> None:
    here = shutil.copytree(finished, tmp_path / "here")
    file = here / "results" / "baseline-seed1.json"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    elsewhere = carry(here, tmp_path / "elsewhere")
    (elsewhere / "results" / "._baseline-seed0.json").write_bytes(b"left by another system")
    with pytest.raises(RunError, match=r"baseline-seed1\.json is missing or damaged") as caught:
        take_in(tiny_study(tiny_checkpoint, **SMALL), elsewhere)
    assert "its trial is run again here" in str(caught.value.hint)
    work(tiny_study(tiny_checkpoint, **SMALL), here)
    assert file.read_bytes() == whole


@pytest.mark.parametrize("file", sorted(SHIPPED.glob("baseline-*.json")), ids=lambda file: file.stem)
def test_results_that_were_kept_in_earlier_sittings_still_count(file: Path) -> None:
    declared = load_study("paper-study", [
        "model.name=smollm2-135m", "model.dtype=bfloat16", "corpus.source=MedQuAD-master.zip", "train.batching=grouped",
        "lora.lora_dropout=0", "train.gradient_checkpointing=none", "generate.test_pairs=100", "train.max_pairs=400",
        "train.eval_pairs=64",
    ])  # fmt: skip
    trials = {trial.name: trial for trial in lay_out_design(declared).trials((), {"baseline": 3})}
    kept = KeptTrial.model_validate_json(file.read_text(encoding="utf-8")).belongs_to
    asked = {**kept, "settings": digest_value(_settings(trials[file.stem])), ANSWERS: "none"}
    assert differing(kept, asked) == []
    assert differing(kept, {**asked, ANSWERS: "nf4"}) == [ANSWERS]
