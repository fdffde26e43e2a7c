"""One score per answer: joined by id, equal to the reference package, nothing dropped."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from vademecum.config.sections import EvaluateConfig
from vademecum.errors import RunError
from vademecum.evaluation.metrics import METRICS, collect_references, rouge, score, signature, split_sentences
from vademecum.records import Prediction, QAPair, Stopped

PLAIN = EvaluateConfig()
EVERY_REFERENCE = EvaluateConfig(multi_reference=True)


def pair(name: str, answer: str = "Drink water and rest.", question: str = "What helps?") -> QAPair:
    return QAPair(id=name, question=question, answer=answer)


def prediction(name: str, text: str = "Rest and drink.", stopped: Stopped = "end_token") -> Prediction:
    return Prediction(id=name, text=text, stopped=stopped, prompt_tokens=9, new_tokens=4)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Rest. Drink water! Why? It helps.", ["Rest.", "Drink water!", "Why?", "It helps."]),
        ("See Dr. Brown, e.g. Monday. Or go later.", ["See Dr. Brown, e.g. Monday.", "Or go later."]),
        ("The U.S. Agency says so. Trust it.", ["The U.S. Agency says so.", "Trust it."]),
        ("About 2.5 mg. of it, E. coli too.", ["About 2.5 mg. of it, E. coli too."]),
        ("Take vitamin D. It helps (a lot.) Good.", ["Take vitamin D.", "It helps (a lot.)", "Good."]),
        ("One line\nand another\n\n", ["One line", "and another"]),
        ("He said (see Fig. 2) so.", ["He said (see Fig. 2) so."]),
        ("  ", []),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


@given(st.text(alphabet="ab.!? \nDrU(\"')1", max_size=80))
def test_splitting_loses_no_word(text: str) -> None:
    assert " ".join(split_sentences(text)).split() == text.split()


WORDS = st.lists(st.sampled_from(["the", "pain", "running", "runs.", "Rest.", "Drug!", "U.S.", "é", "2"]), max_size=30)


@settings(deadline=None)
@given(WORDS.map(" ".join), WORDS.map(" ".join), st.booleans())
def test_scores_equal_the_package_called_plainly(reference: str, answer: str, use_stemmer: bool) -> None:
    package = RougeScorer(list(METRICS), use_stemmer=use_stemmer)
    expected = package.score("\n".join(split_sentences(reference)), "\n".join(split_sentences(answer)))

    assert rouge(reference, answer, use_stemmer=use_stemmer) == {name: expected[name].fmeasure for name in METRICS}


def test_an_answer_in_another_sentence_order_scores_higher_in_lsum_than_in_l() -> None:
    scores = rouge("Rest in bed. Drink much water.", "Drink much water. Rest in bed.")

    assert scores["rougeLsum"] == scores["rouge1"] == 1.0
    assert scores["rougeL"] == 0.5


def test_stemming_is_off_unless_asked_for() -> None:
    assert rouge("running", "runs")["rouge1"] == 0.0
    assert rouge("running", "runs", use_stemmer=True)["rouge1"] == 1.0


def test_predictions_are_joined_by_id_and_sorted() -> None:
    pairs = {"a": pair("a", "Alpha beta."), "b": pair("b", "Gamma delta.")}
    groups = {"a": "g1", "b": "g2"}
    rows = score([prediction("b", "Gamma delta."), prediction("a", "Alpha beta.")], pairs, groups, PLAIN)

    assert [(row.id, row.group, row.metrics["rouge2"]) for row in rows] == [("a", "g1", 1.0), ("b", "g2", 1.0)]


def test_lengths_are_words_and_the_reason_of_stopping_is_kept() -> None:
    (row,) = score([prediction("a", "One  two-three, 4.", "length")], {"a": pair("a")}, {"a": "g"}, PLAIN)

    assert (row.prediction_words, row.reference_words, row.stopped, row.looping) == (3, 4, "length", False)


@pytest.mark.parametrize("text", ["", "  \n", "…"])
def test_an_empty_answer_scores_zero_and_stays(text: str) -> None:
    rows = score(
        [prediction("a", text), prediction("b")], {"a": pair("a"), "b": pair("b")}, {"a": "g", "b": "g"}, PLAIN
    )

    assert rows[0].metrics == dict.fromkeys(METRICS, 0.0)
    assert rows[0].prediction_words == len(text.split())
    assert rows[1].metrics["rouge1"] > 0


def test_looping_is_seen_in_the_text_and_in_the_reason_of_stopping() -> None:
    pairs = {name: pair(name) for name in "abc"}
    answers = [
        prediction("a", "Call a doctor soon. " * 12, "length"),
        prediction("b", "Rest and drink.", "loop"),
        prediction("c", "Rest and drink plenty of water every day."),
    ]

    assert [row.looping for row in score(answers, pairs, dict.fromkeys("abc", "g"), PLAIN)] == [True, True, False]


@pytest.mark.parametrize(
    ("names", "pairs", "groups", "found"),
    [
        (["a", "a"], ["a"], ["a"], "two predictions have the id 'a'"),
        (["a", "b"], ["a"], ["a", "b"], "'b' has no reference"),
        (["a", "b"], ["a", "b"], ["a"], "'b' has no group"),
    ],
)
def test_what_cannot_be_joined_is_an_error(names: list[str], pairs: list[str], groups: list[str], found: str) -> None:
    with pytest.raises(RunError, match=found):
        score([prediction(n) for n in names], {n: pair(n) for n in pairs}, dict.fromkeys(groups, "g"), PLAIN)


@pytest.mark.parametrize("answer", ["", " ", "Отдых и вода."])
def test_a_reference_that_rouge_cannot_see_is_an_error_not_a_zero(answer: str) -> None:
    with pytest.raises(RunError, match="no word that ROUGE can count"):
        score([prediction("a")], {"a": pair("a", answer)}, {"a": "g"}, PLAIN)


def test_multi_reference_takes_the_best_reference_for_each_metric() -> None:
    pairs = {
        "a": pair("a", "Alpha beta gamma.", "What is  it?"),
        "b": pair("b", "Delta epsilon zeta.", "what is it?"),
        "c": pair("c", "Never used.", "Another question?"),
    }
    answers = [prediction("a", "Delta epsilon zeta.")]
    groups = {"a": "g"}

    assert score(answers, pairs, groups, PLAIN)[0].metrics["rouge1"] == 0.0
    assert score(answers, pairs, groups, EVERY_REFERENCE)[0].metrics["rouge1"] == 1.0
    given_none = score(answers, pairs, groups, EVERY_REFERENCE, {"a": ["Something else.", "…"]})
    assert given_none[0].metrics["rouge1"] == 0.0
    assert score(answers, pairs, groups, PLAIN, {"a": ["Delta epsilon zeta."]})[0].metrics["rouge1"] == 0.0


def test_references_are_collected_by_question_whatever_the_order() -> None:
    pairs = {"b": pair("b", "Two."), "a": pair("a", "One."), "d": pair("d", "One."), "c": pair("c", "Three.", "Other?")}

    assert collect_references(pairs) == {
        "a": ("One.", "Two."),
        "b": ("One.", "Two."),
        "d": ("One.", "Two."),
        "c": ("Three.",),
    }


def test_the_signature_is_one_line_that_names_what_changes_scores() -> None:
    decoding = {"seed": 0, "max_new_tokens": 320}

    assert signature(PLAIN, decoding, 128, "ab12") == (
        "rouge-score==0.1.2|stemmer=no|sentences=vademecum-1|references=one|max_new_tokens=320|seed=0|n=128|split=ab12"
    )
    other = signature(EvaluateConfig(use_stemmer=True, multi_reference=True), {"stop": "\n"}, 1, "ab12")
    assert "stemmer=yes" in other
    assert "references=all" in other
    assert "\n" not in other


def test_long_answers_are_scored_whole() -> None:
    rng = random.Random(0)
    long = " ".join(rng.choices([f"word{i}" for i in range(400)], k=4_000))

    assert rouge(long, long) == dict.fromkeys(METRICS, 1.0)
