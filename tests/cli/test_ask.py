"""`vade ask`: questions of one's own to a finished run."""

import io
import json
import shutil
from pathlib import Path

import pytest
from tests.cli.outcome import MARK, Outcome, Vade

from vademecum.hardware import probe_hardware
from vademecum.planning import Plan
from vademecum.records import Prediction, QAPair
from vademecum.runs import Run
from vademecum.stages import Road
from vademecum.stages.answer import load_system
from vademecum.stages.material import Base


def rows(run: Path) -> tuple[dict[str, QAPair], list[Prediction]]:
    place = Run.open(run)
    pairs = {pair.id: pair for pair in place.read_rows("pairs.jsonl", QAPair)}
    return pairs, place.read_rows("predictions/tuned.jsonl", Prediction)


def test_the_answer_is_the_one_that_the_run_gave_to_the_same_question(finished: Path, vade: Vade) -> None:
    pairs, predictions = rows(finished)
    asked = predictions[:3]
    outcome = vade("--json", "ask", finished, *(pairs[one.id].question for one in asked))
    assert outcome.code == 0, outcome.err
    assert [reply["answer"] for reply in outcome.json["replies"]] == [one.text for one in asked]
    assert [reply["stopped"] for reply in outcome.json["replies"]] == [one.stopped for one in asked]


def test_base_answers_as_base_did(finished: Path, vade: Vade) -> None:
    place = Run.open(finished)
    pairs, [first, *_] = rows(finished)[0], place.read_rows("predictions/base.jsonl", Prediction)
    outcome = vade("--json", "ask", finished, pairs[first.id].question, "--system", "base")
    assert outcome.json["replies"][0]["answer"] == first.text


@pytest.mark.parametrize("split", ["train", "test"])
def test_beside_it_stands_the_nearest_pair_of_the_whole_corpus(finished: Path, vade: Vade, split: str) -> None:
    place = Run.open(finished)
    inside = {
        row["id"]
        for row in map(json.loads, (finished / "splits.jsonl").read_text().splitlines())
        if row["split"] == split
    }
    known = next(pair for pair in place.read_rows("pairs.jsonl", QAPair) if pair.id in inside)
    outcome = vade("ask", finished, known.question)
    assert outcome.code == 0, outcome.err
    assert known.question in outcome.words
    assert known.answer in outcome.words
    for said in ("tuned against base", "tuned against copy", "not medical advice", known.source):
        assert said in outcome.words


def test_a_question_like_no_other_has_no_nearest(finished: Path, vade: Vade) -> None:
    outcome = vade("ask", finished, "Xyzzy?")
    assert outcome.code == 0, outcome.err
    assert "No question of the corpus shares a word with this one." in outcome.words


def test_the_words_that_made_it_the_nearest_are_shown(finished: Path, vade: Vade) -> None:
    [reply] = vade("--json", "ask", finished, "What, what is XYZZY?").json["replies"]
    assert reply["shared"] == ["what", "is"]


def test_without_a_question_every_line_is_one(finished: Path, vade: Vade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("What is gout?\n\n  What is scurvy?\n"))
    outcome = vade("--json", "ask", finished)
    assert [reply["question"] for reply in outcome.json["replies"]] == ["What is gout?", "What is scurvy?"]
    assert all(MARK in reply["nearest"]["answer"] for reply in outcome.json["replies"])


def test_questions_that_are_no_text_are_refused(finished: Path, vade: Vade, monkeypatch: pytest.MonkeyPatch) -> None:
    latin = io.BytesIO("Qu'est-ce que la fièvre?\n".encode("latin-1"))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(latin, encoding="utf-8"))
    outcome = vade("ask", finished)
    assert outcome.code == 2
    assert "error: standard input holds the byte 0xe8, which is not utf-8" in outcome.err


def test_asking_changes_nothing(finished: Path, vade: Vade) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    vade("ask", finished, "What is gout?")
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


@pytest.mark.parametrize(("faster", "taken"), [(3.0, "bfloat16"), (0.1, "float32")])
def test_what_was_planned_in_bfloat16_is_asked_so_where_it_is_fast(
    finished: Path, tmp_path: Path, vade: Vade, monkeypatch: pytest.MonkeyPatch, faster: float, taken: str
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    plan, config = (json.loads((run / name).read_text()) for name in ("plan.json", "config.json"))
    (run / "plan.json").write_text(json.dumps({**plan, "dtype": "bfloat16"}))
    (run / "config.json").write_text(json.dumps({**config, "model": {**config["model"], "dtype": "auto"}}))
    rates = {"float32": 1e10, "bfloat16": faster * 1e10}
    here = probe_hardware(wanted="cpu").model_copy(update={"matmul_flops": rates})
    loaded: list[str] = []

    def load(road: Road, base: Base, plan: Plan, system: str) -> object:
        loaded.append(plan.dtype)
        return load_system(road, base, plan, system)

    monkeypatch.setattr("vademecum.stages.ask.probe_hardware", lambda **_: here)
    monkeypatch.setattr("vademecum.stages.ask.load_system", load)
    assert vade("ask", run, "What is gout?").code == 0
    assert loaded == [taken]


def test_an_unfinished_run_cannot_be_asked(first: tuple[Path, Outcome], tmp_path: Path, vade: Vade) -> None:
    run = Path(shutil.copytree(first[0], tmp_path / "run"))
    Run.open(run).forget("train")
    outcome = vade("ask", run, "What is gout?")
    assert outcome.code == 2
    assert "train not finished" in outcome.err
    assert vade("ask", run, "What is gout?", "--system", "base").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("  ",), "the question is empty"), (("What is gout?", "--system", "oracle"), "no system 'oracle'")],
)
def test_what_cannot_be_asked(finished: Path, vade: Vade, arguments: tuple[str, ...], said: str) -> None:
    outcome = vade("ask", finished, *arguments)
    assert outcome.code == 2
    assert said in outcome.err


def test_a_question_that_fills_the_context_is_refused(finished: Path, vade: Vade) -> None:
    outcome = vade("ask", finished, "gout " * 5000)
    assert outcome.code == 2
    assert "context" in outcome.err
