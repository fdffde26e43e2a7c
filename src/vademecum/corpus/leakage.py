"""How much of the test split a model may already have seen in train. `docs/leakage.md` explains the numbers."""

from collections.abc import Iterable, Sequence

from vademecum.corpus.cleaning import normalise
from vademecum.corpus.splitting import link_keys
from vademecum.errors import CorpusError
from vademecum.records import Assignment, QAPair, Record

GRAM_WORDS = 13
"""The length that Brown et al. (2020, appendix C) used to find test data in GPT-3's training text."""


class Leakage(Record):
    """Shares of the test pairs, as fractions of one; excluded pairs count nowhere."""

    question: float
    """The normalised question is that of a train pair."""
    answer: float
    """The normalised answer is that of a train pair."""
    focus: float
    """The focus, without regard to case, is that of a train pair."""
    document: float
    """The document is that of a train pair."""
    ngram13: float
    """At least half of the answer's distinct 13-grams of words stand in train answers."""
    n_test: int


def audit_leakage(pairs: Sequence[QAPair], assignments: Sequence[Assignment]) -> Leakage:
    """Count the test pairs that share something with train. An empty field is shared with nobody.

    Raises CorpusError when a pair has no assignment, or when there is no test pair.
    """
    splits = {assignment.id: assignment.split for assignment in assignments}
    missing = [pair.id for pair in pairs if pair.id not in splits]
    if missing:
        raise CorpusError(
            f"{len(missing)} pairs are in no split, the first is {missing[0]!r}",
            hint="split the corpus again: the pairs have changed since",
        )
    train = [_keys(pair) for pair in pairs if splits[pair.id] == "train"]
    test = [_keys(pair) for pair in pairs if splits[pair.id] == "test"]
    if not test:
        raise CorpusError("there is no test pair to audit", hint="split the corpus before the audit")

    shares = {kind: _share_known(kind, train, test) for kind in ("question", "answer", "focus", "document")}
    ngram13 = _share_copied([keys.get("answer", "") for keys in train], [keys.get("answer", "") for keys in test])
    return Leakage(**shares, ngram13=ngram13, n_test=len(test))


def _keys(pair: QAPair) -> dict[str, str]:
    answer = normalise(pair.answer)
    return link_keys(pair) | ({"answer": answer} if answer else {})


def _share_known(kind: str, train: Sequence[dict[str, str]], test: Sequence[dict[str, str]]) -> float:
    known = {keys[kind] for keys in train if kind in keys}
    return sum(kind in keys and keys[kind] in known for keys in test) / len(test)


def _share_copied(train: Iterable[str], test: Sequence[str]) -> float:
    """Share of the test answers with at least half of their distinct grams in train answers."""
    grams = [_grams(answer) for answer in test]
    # Train has ten times the text: of its grams only those that a test answer has are worth the memory.
    wanted = set[tuple[str, ...]]().union(*grams)
    found: set[tuple[str, ...]] = set()
    for answer in set(train):
        found |= _grams(answer) & wanted
    return sum(bool(own) and 2 * len(own & found) >= len(own) for own in grams) / len(test)


def _grams(answer: str) -> set[tuple[str, ...]]:
    """The distinct 13-grams of words; a shorter answer is one gram, an empty one none."""
    words = answer.split()
    if len(words) < GRAM_WORDS:
        return {tuple(words)} if words else set()
    return set(zip(*(words[start:] for start in range(GRAM_WORDS)), strict=False))
