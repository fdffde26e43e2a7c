"""The rules, their order and their counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.tokenizers import DefaultTokenizer

from vademecum.config import CorpusConfig
from vademecum.corpus.cleaning import clean, normalise
from vademecum.errors import CorpusError
from vademecum.records import QAPair

ALL_OFF = CorpusConfig(
    collapse_whitespace=False,
    drop_empty_answers=False,
    drop_junk_answers=False,
    drop_question_repeats=False,
    drop_duplicates=False,
)


def pair(answer: str, question: str = "What is asthma?", id: str = "a", focus: str = "") -> QAPair:
    return QAPair(id=id, question=question, answer=answer, focus=focus)


SOUND = pair("A disease of the airways.", id="sound")

texts = st.text(st.sampled_from(" \n\taB?.é"), max_size=6)
corpora = st.lists(st.tuples(texts, texts), max_size=20).map(
    lambda rows: [pair(answer, question, str(at)) for at, (question, answer) in enumerate(rows)]
)
switches = st.builds(
    CorpusConfig,
    collapse_whitespace=st.booleans(),
    drop_empty_answers=st.booleans(),
    drop_junk_answers=st.booleans(),
    drop_question_repeats=st.booleans(),
    drop_duplicates=st.booleans(),
)


def test_every_rule_is_listed_in_order_even_with_zero() -> None:
    kept, counts = clean([pair("A disease of the airways.")], CorpusConfig())
    assert kept == [pair("A disease of the airways.")]
    assert list(counts.items()) == [
        ("collapse_whitespace", 0),
        ("empty_answer", 0),
        ("empty_question", 0),
        ("junk_answer", 0),
        ("question_repeat", 0),
        ("duplicate", 0),
    ]


def test_a_rule_that_is_off_is_absent_and_does_nothing() -> None:
    pairs = [pair(""), pair("Topics", id="b"), pair("What is asthma ?", id="c"), pair("Topics", id="d")]
    assert clean(pairs, ALL_OFF) == (pairs, {"empty_question": 0})


def test_white_space_is_collapsed_in_question_answer_and_focus() -> None:
    kept, counts = clean(
        [pair(" a\n\u00a0 b ", " What\tnow? ", focus="hay  fever"), pair("a b", id="b")], CorpusConfig()
    )
    assert (kept[0].question, kept[0].answer, kept[0].focus) == ("What now?", "a b", "hay fever")
    assert counts["collapse_whitespace"] == 1


@pytest.mark.parametrize("collapse", [True, False])
def test_white_space_alone_is_an_empty_answer(collapse: bool) -> None:
    kept, counts = clean([pair(" \n\t "), SOUND], CorpusConfig(collapse_whitespace=collapse))
    assert (kept, counts["empty_answer"]) == ([SOUND], 1)


def test_an_empty_question_is_dropped_with_every_switch_off() -> None:
    assert clean([pair("An answer.", question=" "), SOUND], ALL_OFF) == ([SOUND], {"empty_question": 1})


@pytest.mark.parametrize(
    "heading",
    ["Topics", " topics:", "Frequently Asked Queestions (FAQs)", "Frequently asked questions (FAQs)"],
)
def test_a_bare_heading_is_junk(heading: str) -> None:
    kept, counts = clean([pair(heading), SOUND], CorpusConfig())
    assert (kept, counts["junk_answer"]) == ([SOUND], 1)


@pytest.mark.parametrize("answer", ["?", "休息", "\U0001f44d"])
def test_an_answer_that_rouge_cannot_count_is_dropped_with_every_switch_off(answer: str) -> None:
    assert clean([pair(answer), SOUND], ALL_OFF) == ([SOUND], {"empty_question": 0, "unscorable_answer": 1})


@pytest.mark.parametrize("answer", ["É 5", "\u212a", "\u0130", "", " "])
def test_an_answer_with_a_letter_or_digit_stays_and_so_does_an_empty_one(answer: str) -> None:
    assert clean([pair(answer)], ALL_OFF) == ([pair(answer)], {"empty_question": 0})


@given(st.text(min_size=1).filter(lambda text: not text.isspace()))
def test_what_stays_is_what_rouge_counts(answer: str) -> None:
    _, counts = clean([pair(answer), SOUND], ALL_OFF)
    assert ("unscorable_answer" in counts) == (not DefaultTokenizer(use_stemmer=True).tokenize(answer))


def test_nothing_left_is_an_error_that_counts() -> None:
    with pytest.raises(CorpusError, match="none of the 3 pairs; removed by empty_answer 2, junk_answer 1") as caught:
        clean([pair(""), pair(" ", id="b"), pair("Topics", id="c")], CorpusConfig())
    assert "corpus.columns.answer" in caught.value.hint
    assert clean([], ALL_OFF) == ([], {"empty_question": 0})


def test_an_answer_that_begins_with_a_heading_is_no_junk() -> None:
    kept, _ = clean([pair("Topics that this page covers: causes and treatment.")], CorpusConfig())
    assert len(kept) == 1


def test_an_answer_that_repeats_its_question_is_dropped() -> None:
    kept, counts = clean([pair("what is Asthma ?"), pair("What is asthma? A disease.", id="b")], CorpusConfig())
    assert ([one.id for one in kept], counts["question_repeat"]) == (["b"], 1)


def test_duplicates_agree_in_case_too() -> None:
    pairs = [pair("One.", id="a"), pair("one.", id="b"), pair(" One. ", id="c"), pair("One.", "Why?", id="d")]
    kept, counts = clean(pairs, CorpusConfig())
    assert ([one.id for one in kept], counts["duplicate"]) == (["a", "b", "d"], 1)


def test_which_duplicate_stays_does_not_depend_on_the_order() -> None:
    pairs = [pair("One.", id="b", focus="x"), pair("One.", id="a", focus="y")]
    assert clean(pairs, CorpusConfig())[0] == clean(pairs[::-1], CorpusConfig())[0] == [pairs[1]]


@given(corpora, switches)
def test_counts_add_up_and_cleaning_twice_changes_nothing(pairs: list[QAPair], config: CorpusConfig) -> None:
    pairs = [*pairs, pair(SOUND.answer, id="99")]
    kept, counts = clean(pairs, config)
    removed = sum(count for name, count in counts.items() if name != "collapse_whitespace")
    assert len(pairs) - len(kept) == removed
    assert [one.id for one in kept] == sorted((one.id for one in kept), key=int)
    again = {name: 0 for name in counts if name != "unscorable_answer"}
    assert clean(kept, config) == (kept, again)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Bell's palsy ?", "bell's  PALSY?"),
        ("X-linked", "x linked."),
        ("\ufb01brosis", "Fibrosis"),
        ("Straße", "STRASSE"),
        ("caf\u00e9", "cafe\u0301"),
        ("\u201cquoted\u201d", '"quoted"'),
    ],
)
def test_normalise_folds(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(("one", "other"), [("5 mg", "6 mg"), ("B+", "B"), ("< 3", "> 3"), ("an attic", "anattic")])
def test_normalise_keeps_meaning_apart(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


@given(st.text())
def test_normalise_is_stable(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert once == once.strip()
