"""Copying: the system that every model has to beat, and the examples that are shown to a model.

A question is answered with the answer of the nearest train question of the same question type.
"""

import logging
import re
from collections.abc import Sequence

from vademecum.errors import RunError
from vademecum.records import Prediction, QAPair

K1 = 1.5
B = 0.75
"""BM25's parameters, at the values that are usual where none are tuned."""


def nearest(train: Sequence[QAPair], questions: Sequence[QAPair], k: int) -> list[list[QAPair]]:
    """For each question the `k` nearest train pairs of its question type, the nearest first; ties by id.

    Distance is BM25 between the question texts, in Lucene's form (Kamphuis et al. 2020,
    https://doi.org/10.1007/978-3-030-45442-5_4), k1 = 1.5, b = 0.75. Words are lower-cased runs of letters and digits,
    single ones too (vitamin A is not vitamin D); stop words stay in, their weight is low by itself.

    A question without a type, or with one that train does not have, is compared with all of train. Fewer than `k`
    pairs come back where there are no more. The order of `train` does not matter.

    Raises:
        RunError: there is no train pair.
    """
    if not train:
        raise RunError("there is no train pair to copy from", hint="look at the counts in splits.jsonl")
    pairs = sorted(train, key=lambda pair: pair.id)
    pools = {"": pairs, **{qtype: [pair for pair in pairs if pair.qtype == qtype] for qtype in _types(pairs)}}
    asked = [question.qtype if question.qtype in pools else "" for question in questions]
    indices = {qtype: _Index(pools[qtype]) for qtype in set(asked)}
    return [indices[qtype].nearest(question, k) for qtype, question in zip(asked, questions, strict=True)]


def copy_answers(train: Sequence[QAPair], test: Sequence[QAPair]) -> list[Prediction]:
    """Answer each test question with the answer of the nearest train question; in the order of `test`.

    Raises:
        RunError: as `nearest`.
    """
    return [
        Prediction(id=pair.id, text=found.answer, stopped="copied", prompt_tokens=0, new_tokens=0, shown=(found.id,))
        for pair, (found,) in zip(test, nearest(train, test, 1), strict=True)
    ]


def scope(train: Sequence[QAPair], test: Sequence[QAPair]) -> str:
    """One sentence: whether `nearest` goes by question type, and how many questions it compares with all of train."""
    types = _types(train)
    if not types:
        return "The train pairs have no question types: every question was compared with all of them."
    without = sum(pair.qtype not in types for pair in test)
    by_type = "Questions were compared with the train questions of their question type"
    if not without:
        return f"{by_type}."
    return f"{by_type}; {without} of {len(test)}, whose type train does not have, with all train questions."


def words_in_common(question: str, other: str) -> tuple[str, ...]:
    """The words by which `nearest` found the other, each once, in the order of `question`."""
    known = set(_words(other))
    return tuple(dict.fromkeys(word for word in _words(question) if word and word in known))


class _Index:
    """BM25 over the questions of some pairs, given in order of id."""

    def __init__(self, pairs: Sequence[QAPair]) -> None:
        import bm25s

        # It sets its logger to DEBUG, and so would write to the terminal as soon as any library has set logging up.
        logging.getLogger("bm25s").setLevel(logging.WARNING)
        self._pairs = pairs
        self._bm25 = bm25s.BM25(method="lucene", k1=K1, b=B, backend="numpy")
        self._bm25.index([_words(pair.question) for pair in pairs], create_empty_token=False, show_progress=False)

    def nearest(self, question: QAPair, k: int) -> list[QAPair]:
        import numpy as np

        scores = self._bm25.get_scores(_words(question.question))
        # A stable sort keeps the order of ids among equals; bm25s's own selection does not.
        return [self._pairs[place] for place in np.argsort(-scores, kind="stable")[:k]]


def _types(pairs: Sequence[QAPair]) -> set[str]:
    return {pair.qtype for pair in pairs if pair.qtype}


def _words(text: str) -> list[str]:
    # bm25s can neither index nor look up a text without words.
    return re.findall(r"[^\W_]+", text.lower()) or [""]
