"""Longest common subsequences, for ROUGE-L and ROUGE-Lsum.

The table of common subsequences is kept as one integer per row (Hyyrö, "Bit-parallel LCS-length computation
revisited", 2004): fifty times faster in Python than a list of lists. ROUGE-Lsum depends on *which* longest
subsequence is taken, so ties are broken as in rouge-score 0.1.2; a test holds the scores equal to that package's.
"""

from collections import Counter
from collections.abc import Sequence

Tokens = Sequence[str]


def common_length(reference: Tokens, prediction: Tokens) -> int:
    """Length of the longest common subsequence, in tokens."""
    return _rows(reference, prediction)[-1].bit_count()


def union_hits(reference: Sequence[Tokens], prediction: Sequence[Tokens]) -> int:
    """Tokens of the reference's sentences that lie in a longest common subsequence with any sentence of the prediction.

    A token counts at most as often as it stands in either text, as in ROUGE-1.5.5 (Lin 2004, section 3.2).
    """
    left_in_reference = Counter(token for sentence in reference for token in sentence)
    left_in_prediction = Counter(token for sentence in prediction for token in sentence)
    hits = 0
    for sentence in reference:
        places: set[int] = set()
        for other in prediction:
            places.update(_common_places(sentence, other))
        for place in sorted(places):
            token = sentence[place]
            if left_in_reference[token] > 0 and left_in_prediction[token] > 0:
                hits += 1
                left_in_reference[token] -= 1
                left_in_prediction[token] -= 1
    return hits


def _rows(reference: Tokens, prediction: Tokens) -> list[int]:
    """Row i: the number of ones among the lowest j bits is the common length of reference[:i] and prediction[:j]."""
    matches: dict[str, int] = {}
    for column, token in enumerate(prediction):
        matches[token] = matches.get(token, 0) | 1 << column
    full = (1 << len(prediction)) - 1
    zeros = full
    rows = [0]
    for token in reference:
        if token in matches:
            hit = zeros & matches[token]
            zeros = ((zeros + hit) | (zeros - hit)) & full
        rows.append(full ^ zeros)
    return rows


def _common_places(reference: Tokens, prediction: Tokens) -> list[int]:
    """Indices into the reference of one longest common subsequence, from the last to the first."""
    rows = _rows(reference, prediction)
    i, j = len(reference), len(prediction)
    places: list[int] = []
    while i and j and rows[i]:
        if rows[i] == rows[i - 1] and reference[i - 1] != prediction[j - 1]:
            i -= 1
        elif reference[i - 1] == prediction[j - 1]:
            i -= 1
            j -= 1
            places.append(i)
        elif _length_at(rows[i], j - 1) > _length_at(rows[i - 1], j):
            j -= 1
        else:
            i -= 1
    return places


def _length_at(row: int, column: int) -> int:
    return (row & ((1 << column) - 1)).bit_count()
