"""The named rules that decide which pairs are kept, each with a count.

| rule | what it does | switch |
|---|---|---|
| collapse_whitespace | in question, answer and focus every run of white space becomes a space | `collapse_whitespace` |
| empty_answer | removes pairs without an answer | `drop_empty_answers` |
| empty_question | removes pairs without a question | always on |
| junk_answer | removes answers that are only the heading of a page | `drop_junk_answers` |
| question_repeat | removes answers that only repeat their own question | `drop_question_repeats` |
| unscorable_answer | removes answers that are not empty and have no letter a-z and no digit 0-9 | always on |
| duplicate | keeps one of the pairs that have the same question and the same answer | `drop_duplicates` |

The rules run in this order, and a pair counts for the first rule that removes it. ROUGE counts a-z and 0-9 only: a
reference without any would stop the run where it is scored, after the hours of training.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence

from vademecum.config import CorpusConfig
from vademecum.errors import CorpusError
from vademecum.records import QAPair


class _Spacing(dict[int, int]):
    """A table for `str.translate` that turns punctuation into spaces and fills itself as characters turn up."""

    def __missing__(self, code: int) -> int:
        self[code] = ord(" ") if unicodedata.category(chr(code)).startswith("P") else code
        return self[code]


_SPACING = _Spacing()


def normalise(text: str) -> str:
    """Fold away what does not change the meaning: case, Unicode's compatible forms (NFKC), white space, punctuation.

    Punctuation counts as white space, so "X-linked" and "x linked" are equal. Symbols such as + and < stay.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.translate(_SPACING).split())


_HEADINGS = frozenset(
    {
        "topics",
        "frequently asked questions",
        "frequently asked questions faqs",
        "frequently asked queestions faqs",  # so spelled in two answers of MedQuAD's CDC folder
    }
)


def clean(pairs: Sequence[QAPair], config: CorpusConfig) -> tuple[list[QAPair], dict[str, int]]:
    """Apply the rules that the configuration switches on.

    Returns the kept pairs, in the order of the input, and for each rule in the order of work how many pairs it
    removed (for `collapse_whitespace`: changed). A rule that removed nothing stands there with 0; one that is
    switched off is absent, and so is `unscorable_answer` where it removed nothing. Of duplicates the pair with the
    smallest id is kept, so that the order of the input does not decide. Without `collapse_whitespace` duplicates must
    agree in white space too.

    Raises CorpusError when there were pairs and none is left.
    """
    kept, counts = list(pairs), {}
    if config.collapse_whitespace:
        collapsed = [_collapse(pair) for pair in kept]
        counts["collapse_whitespace"] = sum(new is not old for new, old in zip(collapsed, kept, strict=True))
        kept = collapsed
    for name, is_on, wanted in _removals(config):
        if is_on:
            remaining = [pair for pair in kept if wanted(pair)]
            counts[name] = len(kept) - len(remaining)
            kept = remaining
    scorable = [pair for pair in kept if _is_scorable(pair.answer)]
    if len(scorable) < len(kept):
        counts["unscorable_answer"] = len(kept) - len(scorable)
        kept = scorable
    if pairs and not kept:
        raise _nothing_left(len(pairs), counts)
    if config.drop_duplicates:
        firsts = _first_ids(kept)
        counts["duplicate"] = len(kept) - len(firsts)
        kept = [pair for pair in kept if pair.id in firsts]
    return kept, counts


def _removals(config: CorpusConfig) -> list[tuple[str, bool, Callable[[QAPair], bool]]]:
    return [
        ("empty_answer", config.drop_empty_answers, lambda pair: bool(pair.answer.strip())),
        ("empty_question", True, lambda pair: bool(pair.question.strip())),
        ("junk_answer", config.drop_junk_answers, lambda pair: normalise(pair.answer) not in _HEADINGS),
        ("question_repeat", config.drop_question_repeats, lambda pair: not _repeats_question(pair)),
    ]


def _is_scorable(answer: str) -> bool:
    # Lower-cased as ROUGE does it, which turns the Kelvin sign into a k.
    return not answer.strip() or re.search("[a-z0-9]", answer.lower()) is not None


def _nothing_left(n_pairs: int, counts: Mapping[str, int]) -> CorpusError:
    removed = {name: count for name, count in counts.items() if count and name != "collapse_whitespace"}
    hints = {
        "empty_answer": "check that corpus.columns.answer is the column with the answers",
        "unscorable_answer": "ROUGE counts a-z and 0-9 only: a corpus in another script cannot be scored here",
    }
    most = max(removed, key=lambda name: removed[name])
    return CorpusError(
        f"cleaning leaves none of the {n_pairs} pairs; removed by "
        + ", ".join(f"{name} {count}" for name, count in removed.items()),
        hint=hints.get(most, "check that the columns of question and answer are the right ones"),
    )


def _repeats_question(pair: QAPair) -> bool:
    # An answer that is left empty on purpose repeats nothing, even where its question is bare punctuation.
    return bool(pair.answer.strip()) and normalise(pair.answer) == normalise(pair.question)


def _collapse(pair: QAPair) -> QAPair:
    texts = {"question": pair.question, "answer": pair.answer, "focus": pair.focus}
    collapsed = {name: " ".join(text.split()) for name, text in texts.items()}
    return pair if collapsed == texts else pair.model_copy(update=collapsed)


def _first_ids(pairs: Sequence[QAPair]) -> set[str]:
    firsts: dict[tuple[str, str], str] = {}
    for pair in pairs:
        key = (pair.question, pair.answer)
        firsts[key] = min(pair.id, firsts.get(key, pair.id))
    return set(firsts.values())
