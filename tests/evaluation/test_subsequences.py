"""ROUGE-L and -Lsum against the reference package, on texts made to have many ties."""

from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from vademecum.evaluation.subsequences import common_length, union_hits

SENTENCES = st.lists(st.lists(st.sampled_from("abcd"), max_size=12), max_size=5)
PACKAGE = RougeScorer(["rougeL", "rougeLsum"])


def text(sentences: list[list[str]]) -> str:
    return "\n".join(" ".join(sentence) for sentence in sentences)


@given(SENTENCES, SENTENCES)
def test_both_lengths_equal_the_packages(reference: list[list[str]], prediction: list[list[str]]) -> None:
    expected = PACKAGE.score(text(reference), text(prediction))
    flat_reference = [token for sentence in reference for token in sentence]
    flat_prediction = [token for sentence in prediction for token in sentence]
    of_reference = max(1, len(flat_reference))

    assert common_length(flat_reference, flat_prediction) / of_reference == expected["rougeL"].recall
    if flat_prediction:
        assert union_hits(reference, prediction) / of_reference == expected["rougeLsum"].recall


def test_a_token_counts_no_more_often_than_it_stands_in_the_prediction() -> None:
    assert union_hits([["a", "b"], ["a", "c"]], [["a"]]) == 1
