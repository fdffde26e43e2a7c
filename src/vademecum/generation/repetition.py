"""Repetition in answers: forbidding it while they are written, and noticing it at their end.

A *loop* is a phrase that is repeated without a change up to the end, its last time perhaps unfinished:

    … see your doctor. It is rare. It is rare. It is rare. It is
"""

from collections.abc import Hashable, Sequence

LOOP_TOKENS = 60
LOOP_WORDS = 30
"""What must repeat at the end of an answer, in tokens while it is written and in words when it is scored. A list of a
few alike items stays under it."""
LONGEST_PHRASE = 80
"""In tokens or in words: small models repeat whole sentences, seldom whole paragraphs."""
REPEATS = 3
"""Verbatim repetitions that make a loop. Two also stand in proper texts: an abstract and its section."""


class RepeatBan:
    """Says which tokens would write the same `size` tokens a second time within one answer.

    The prompt is not looked at, so that an answer may use the words of the question and of the examples shown.
    Costs O(1) per token. `size` 0 bans nothing.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._followers: dict[tuple[int, ...], list[int]] = {}

    def note(self, ids: Sequence[int]) -> None:
        """Remember the n-gram that the last token of the answer so far has completed."""
        if 0 < self._size <= len(ids):
            self._followers.setdefault(tuple(ids[-self._size : -1]), []).append(ids[-1])

    def banned(self, ids: Sequence[int]) -> Sequence[int]:
        """The tokens that may not follow the answer so far."""
        if self._size == 0 or len(ids) < self._size:
            return ()
        return self._followers.get(tuple(ids[len(ids) - self._size + 1 :]), ())


def tokens_loop(ids: Sequence[int]) -> bool:
    """Whether the last 60 or more tokens are one phrase of at most 80 tokens, said three times or more."""
    return _ends_in_loop(ids, LOOP_TOKENS)


def is_looping(text: str) -> bool:
    """Whether the last 30 or more words are one phrase of at most 80 words, said three times or more.

    Words stand between white space; case does not matter. The last word may be cut off.
    """
    words = text.casefold().split()
    return _ends_in_loop(words, LOOP_WORDS) or _ends_in_loop(words[:-1], LOOP_WORDS)


def _ends_in_loop(items: Sequence[Hashable], least: int) -> bool:
    for period in range(1, LONGEST_PHRASE + 1):
        length = max(least, REPEATS * period)
        if length > len(items):
            return False
        # In a text without a loop this first comparison nearly always decides, for every period at every token.
        if items[-1] != items[-1 - period]:
            continue
        if all(items[-i] == items[-i - period] for i in range(2, length - period + 1)):
            return True
    return False
