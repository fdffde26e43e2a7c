"""Copies come from the nearest question of the same type, whatever the order of the train pairs."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vademecum.baselines import copy_answers, nearest, scope
from vademecum.errors import RunError
from vademecum.records import QAPair
from vademecum.testing import tiny_pairs


def pair(id: str, question: str, qtype: str = "", answer: str = "") -> QAPair:
    return QAPair(id=id, question=question, answer=answer or f"Answer {id}.", qtype=qtype)


def ids(found: Sequence[Sequence[QAPair]]) -> list[list[str]]:
    return [[pair.id for pair in row] for row in found]


TRAIN = [
    pair("a", "What are the symptoms of gout?", "symptoms"),
    pair("b", "What are the symptoms of asthma?", "symptoms"),
    pair("c", "What is gout?", "information"),
    pair("d", "What is asthma?", "information"),
]


def test_the_answer_of_the_nearest_question_of_the_same_type_is_copied() -> None:
    (copy,) = copy_answers(TRAIN, [pair("x", "What happens in a body that has gout?", "symptoms")])
    assert copy.text == "Answer a."
    assert (copy.id, copy.stopped, copy.shown) == ("x", "copied", ("a",))
    assert (copy.prompt_tokens, copy.new_tokens) == (0, 0)


def test_every_copy_keeps_to_its_type() -> None:
    pairs = tiny_pairs(90)
    types = {pair.id: pair.qtype for pair in pairs}
    asked = pairs[60:]
    for question, found in zip(asked, nearest(pairs[:60], asked, 2), strict=True):
        assert len(found) == 2
        assert {types[pair.id] for pair in found} == {question.qtype}


@pytest.mark.parametrize("qtype", ["", "causes"])
def test_a_question_whose_type_train_lacks_is_compared_with_all_of_train(qtype: str) -> None:
    asked = [pair("x", "asthma symptoms", qtype), pair("y", "What is gout?", "symptoms")]
    assert ids(nearest(TRAIN, asked, 1)) == [["b"], ["a"]]
    assert scope(TRAIN, asked) == (
        "Questions were compared with the train questions of their question type; 1 of 2, whose type train does not "
        "have, with all train questions."
    )


def test_a_corpus_without_types_is_compared_as_a_whole() -> None:
    train = [pair.model_copy(update={"qtype": ""}) for pair in TRAIN]
    asked = [pair("x", "What is asthma?", "information")]
    assert ids(nearest(train, asked, 1)) == [["d"]]
    assert scope(train, asked) == (
        "The train pairs have no question types: every question was compared with all of them."
    )


def test_scope_without_exceptions() -> None:
    asked = [pair("x", "What is gout?", "information")]
    assert scope(TRAIN, asked) == "Questions were compared with the train questions of their question type."


def test_single_letters_tell_questions_apart() -> None:
    train = [pair("a", "What is vitamin A?"), pair("b", "What is vitamin D?"), pair("c", "What is vitamin E?")]
    assert ids(nearest(train, [pair("x", "vitamin d")], 1)) == [["b"]]


@given(st.integers(), st.integers(min_value=1, max_value=5))
def test_the_order_of_train_does_not_matter_and_ties_go_by_id(seed: int, k: int) -> None:
    train = [*TRAIN, *(pair.model_copy(update={"id": f"{pair.id}{n}"}) for pair in TRAIN for n in range(3))]
    asked = [*TRAIN, pair("x", "nothing alike", "symptoms"), pair("y", "What is gout?")]
    shuffled = random.Random(seed).sample(train, len(train))
    expected = ids(nearest(train, asked, k))
    assert ids(nearest(shuffled, asked, k)) == expected
    assert expected[0] == ["a", "a0", "a1", "a2", "b"][:k]
    assert expected[4] == ["a", "a0", "a1", "a2", "b"][:k]


def test_a_small_type_gives_fewer_pairs() -> None:
    assert ids(nearest(TRAIN, [pair("x", "asthma", "symptoms")], 5)) == [["b", "a"]]


@pytest.mark.parametrize("question", ["", "??"])
def test_questions_without_words_are_answered_too(question: str) -> None:
    assert ids(nearest([pair("b", "?"), pair("a", "!")], [pair("x", question)], 1)) == [["a"]]
    assert ids(nearest([pair("b", "What?"), pair("a", "Why?")], [pair("x", question)], 1)) == [["a"]]


def test_no_train_pairs() -> None:
    with pytest.raises(RunError, match="no train pair"):
        copy_answers([], TRAIN)
    with pytest.raises(RunError, match="no train pair"):
        nearest([], TRAIN, 1)


def test_nothing_is_written_to_the_terminal_or_the_log(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    nearest(TRAIN, TRAIN, 1)
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.name == "bm25s"] == []
