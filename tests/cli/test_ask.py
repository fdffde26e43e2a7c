"""`vade ask`: questions of one's own to a finished run."""

import io
import json
import shutil
from pathlib import Path

import pytest
from tests.cli.outcome import MARK, Outcome, Vade

from vademecum.records import Prediction, QAPair
from vademecum.runs import Run


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


def test_beside_it_stands_the_nearest_train_pair(finished: Path, vade: Vade) -> None:
    place = Run.open(finished)
    train = {
        row["id"]
        for row in map(json.loads, (finished / "splits.jsonl").read_text().splitlines())
        if row["split"] == "train"
    }
    known = next(pair for pair in place.read_rows("pairs.jsonl", QAPair) if pair.id in train)
    outcome = vade("ask", finished, known.question)
    assert outcome.code == 0, outcome.err
    assert known.question in outcome.words
    assert known.answer in outcome.words
    for said in ("tuned against base", "tuned against copy", "not medical advice", known.source):
        assert said in outcome.words


def test_without_a_question_every_line_is_one(finished: Path, vade: Vade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("What is gout?\n\n  What is scurvy?\n"))
    outcome = vade("--json", "ask", finished)
    assert [reply["question"] for reply in outcome.json["replies"]] == ["What is gout?", "What is scurvy?"]
    assert all(MARK in reply["nearest"]["answer"] for reply in outcome.json["replies"])


def test_asking_changes_nothing(finished: Path, vade: Vade) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    vade("ask", finished, "What is gout?")
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


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
