"""A planted leak comes out of the audit with its exact share."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vademecum.corpus.leakage import Leakage, audit_leakage
from vademecum.errors import CorpusError
from vademecum.records import Assignment, QAPair, Split


def a_pair(name: str, **fields: str) -> QAPair:
    own = {"question": f"Q {name}?", "answer": f"A {name}.", "focus": f"F {name}", "document": f"D {name}"}
    return QAPair.model_validate({"id": name, **own, **fields})


def assign(pairs: list[QAPair], split: Split) -> list[Assignment]:
    return [Assignment(id=pair.id, split=split, group=pair.id) for pair in pairs]


def audit(train: list[QAPair], test: list[QAPair]) -> Leakage:
    return audit_leakage(train + test, assign(train, "train") + assign(test, "test"))


def sentence(first: int, words: int) -> str:
    return " ".join(f"w{n}" for n in range(first, first + words))


CLEAN = {"question": 0, "answer": 0, "focus": 0, "document": 0, "ngram13": 0}


def test_nothing_shared_is_zero_everywhere() -> None:
    found = audit([a_pair("a"), a_pair("b")], [a_pair("c"), a_pair("d")])
    assert found.model_dump() == CLEAN | {"n_test": 2}


@settings(deadline=None)
@pytest.mark.parametrize(
    ("kind", "in_train", "in_test"),
    [
        ("question", "What is (are) X-linked asthma ?", "what is are x linked ASTHMA"),
        ("focus", "Heart  Failure", "heart failure"),
        ("document", "5_NIDDK_QA/1", "5_NIDDK_QA/1"),
    ],
)
@given(planted=st.integers(0, 7), others=st.integers(1, 7))
def test_a_planted_leak_has_its_exact_share(kind: str, in_train: str, in_test: str, planted: int, others: int) -> None:
    leaks = [a_pair(f"leak {n}", **{kind: in_test}) for n in range(planted)]
    found = audit([a_pair("t", **{kind: in_train})], leaks + [a_pair(f"other {n}") for n in range(others)])
    n_test = planted + others
    assert found.model_dump() == CLEAN | {kind: planted / n_test, "n_test": n_test}


def test_a_shared_answer_counts_as_answer_and_as_copied_text() -> None:
    test = [a_pair("x", answer="rest, and DRINK"), a_pair("y"), a_pair("z"), a_pair("zz")]
    found = audit([a_pair("t", answer="Rest and drink.")], test)
    assert (found.answer, found.ngram13) == (0.25, 0.25)


@pytest.mark.parametrize(("copied", "leaks"), [(12, 0), (15, 0), (16, 1), (20, 1)])
def test_half_of_the_13_grams_is_enough(copied: int, leaks: int) -> None:
    # Twenty words have eight 13-grams; sixteen copied words carry four of them, fifteen carry three.
    train = [a_pair("t", answer=f"{sentence(0, copied)} and then something else that the other does not say at all")]
    assert audit(train, [a_pair("x", answer=sentence(0, 20))]).ngram13 == leaks


def test_the_halves_may_come_from_two_train_answers() -> None:
    train = [a_pair("s", answer=sentence(0, 14)), a_pair("t", answer=sentence(6, 14))]
    assert audit(train, [a_pair("x", answer=sentence(0, 20))]).ngram13 == 1


def test_a_short_answer_is_one_gram_and_must_be_the_whole_answer() -> None:
    train = [a_pair("t", answer=f"{sentence(0, 5)} {sentence(50, 20)}")]
    assert audit(train, [a_pair("x", answer=sentence(0, 5))]).ngram13 == 0


def test_empty_fields_are_shared_with_nobody() -> None:
    nothing = {"question": "?", "answer": "", "focus": "", "document": ""}
    assert audit([a_pair("t", **nothing)], [a_pair("x", **nothing)]).model_dump() == CLEAN | {"n_test": 1}


def test_validation_and_excluded_pairs_count_on_neither_side() -> None:
    train, test = [a_pair("t")], [a_pair("x", focus="shared"), a_pair("y")]
    aside = [a_pair("v", focus="shared"), a_pair("e", focus="shared")]
    assignments = assign(train, "train") + assign(test, "test")
    assignments += assign(aside[:1], "validation") + assign(aside[1:], "excluded")
    found = audit_leakage(train + test + aside, assignments)
    assert (found.focus, found.n_test) == (0, 2)


def test_a_pair_without_an_assignment_is_an_error() -> None:
    with pytest.raises(CorpusError, match="1 pairs are in no split, the first is 'b'"):
        audit_leakage([a_pair("a"), a_pair("b")], assign([a_pair("a")], "test"))


def test_no_test_pair_is_an_error() -> None:
    with pytest.raises(CorpusError, match="no test pair"):
        audit([a_pair("a")], [])
