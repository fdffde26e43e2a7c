"""Pairs → train, validation and test, so that no test pair has a near relative in train.

Pairs that share focus, document, question or a specific CUI form a *group* (`group_pairs`), and a group goes to one
side as a whole. `docs/decisions/0002-grouping-rule.md` has the rule, its alternatives and their sizes. Nothing here
depends on the order of the input: pairs are sorted by id, and chance comes from a digest of seed and id.

    [Assignment(id="9_CDC_QA/0000004#1", split="train", group="4_MPlus_Health_Topics_QA/0000063#1"), …]
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from hashlib import blake2b

from vademecum.config import SplitConfig
from vademecum.corpus.cleaning import normalise
from vademecum.errors import CorpusError
from vademecum.records import Assignment, QAPair, Split


def split(pairs: Sequence[QAPair], config: SplitConfig, seed: int) -> list[Assignment]:
    """Assign every pair to a split and a group, in the order of the sorted ids.

    `grouped` moves whole groups; `random` moves single pairs and records their groups all the same, because the
    statistics are clustered by them. With `exclude_shared_answers`, grouped validation and test pairs whose
    normalised answer stands in train become `excluded`.

    Raises CorpusError when an id appears twice, or when a split would stay empty.
    """
    ordered = sorted(pairs, key=lambda pair: pair.id)
    groups = group_pairs(ordered, config.cui_max_foci)
    grouped = config.strategy == "grouped"
    units: dict[str, list[QAPair]] = defaultdict(list)
    for pair in ordered:
        units[groups[pair.id] if grouped else pair.id].append(pair)
    if len(units) < 3:
        raise _too_few(ordered, len(units), grouped)

    shares: dict[Split, float] = {"train": config.train, "validation": config.validation, "test": config.test}
    splits = _fill_empty(_place(units, shares, seed), units, shares)
    placed = {pair.id: splits[name] for name, members in units.items() for pair in members}
    if grouped and config.exclude_shared_answers:
        placed |= dict.fromkeys(_answered_in_train(ordered, placed), "excluded")
        _check_left(placed, shares)
    return [Assignment(id=pair.id, split=placed[pair.id], group=groups[pair.id]) for pair in ordered]


def link_keys(pair: QAPair) -> dict[str, str]:
    """The pair's focus, document and question, in the form in which two of them are the same; empty ones left out.

    Grouping links by these keys and the leakage audit looks for these keys, so that the two cannot disagree.
    """
    focus = " ".join(pair.focus.casefold().split())
    keys = {"focus": focus, "document": pair.document.strip(), "question": normalise(pair.question)}
    return {kind: key for kind, key in keys.items() if key}


def group_pairs(pairs: Sequence[QAPair], cui_max_foci: int) -> dict[str, str]:
    """Pair id → name of its group: the smallest id among the pairs that are linked to it, directly or in a chain.

    Two pairs are linked by an equal focus, document or question (`link_keys`), or by a CUI that at most
    `cui_max_foci` distinct foci carry. Raises CorpusError when an id appears twice.
    """
    ordered = sorted(pairs, key=lambda pair: pair.id)
    keys = {pair.id: link_keys(pair) for pair in ordered}
    if len(keys) < len(ordered):
        twice, count = Counter(pair.id for pair in ordered).most_common(1)[0]
        raise CorpusError(f"the pair id {twice!r} appears {count} times", hint="give every pair an id of its own")
    foci: dict[str, set[str]] = defaultdict(set)
    for pair in ordered:
        # A pair that names no focus counts as a focus of its own: it is no proof that the CUI is specific.
        focus = keys[pair.id].get("focus", f"\0{pair.document or pair.id}")
        for cui in pair.cuis:
            foci[cui].add(focus)

    parent = {pair.id: pair.id for pair in ordered}
    holder: dict[tuple[str, str], str] = {}
    for pair in ordered:
        specific = [("cui", cui) for cui in pair.cuis if cui and len(foci[cui]) <= cui_max_foci]
        for key in [*keys[pair.id].items(), *specific]:
            _join(parent, holder.setdefault(key, pair.id), pair.id)
    return {pair.id: _root(parent, pair.id) for pair in ordered}


def _root(parent: dict[str, str], name: str) -> str:
    while parent[name] != name:
        parent[name] = parent[parent[name]]
        name = parent[name]
    return name


def _join(parent: dict[str, str], one: str, other: str) -> None:
    # The smaller id stays the root, which makes the root the name of the group.
    first, second = sorted((_root(parent, one), _root(parent, other)))
    parent[second] = first


def _place(units: Mapping[str, Sequence[QAPair]], shares: Mapping[Split, float], seed: int) -> dict[str, Split]:
    """Put each unit where its own mix of pairs is missed most.

    Large units go first, in random order among units of like size (within a factor of two), so that the small ones
    can even out what is left. The targets grow with the pairs placed so far: with the final targets, the largest
    units would all go to train, and test would hold none of them.
    """
    mixes = _mixes(units, min(shares.values()))
    totals: Counter[str] = Counter()
    for mix in mixes.values():
        totals.update(mix)
    order = sorted(units, key=lambda name: (-len(units[name]).bit_length(), _lot(seed, name)))

    due: Counter[str] = Counter()
    filled: dict[Split, Counter[str]] = {name: Counter() for name in shares}
    placed: dict[str, Split] = {}
    for unit in order:
        mix = mixes[unit]
        due.update(mix)
        missed = {
            name: sum(count * (share * due[kind] - filled[name][kind]) / totals[kind] for kind, count in mix.items())
            for name, share in shares.items()
        }
        placed[unit] = max(missed, key=lambda name: missed[name])
        filled[placed[unit]].update(mix)
    return placed


def _mixes(units: Mapping[str, Sequence[QAPair]], smallest_share: float) -> dict[str, Counter[str]]:
    """Unit → how many of its pairs count towards each balance: source with type, source, type, and all pairs.

    A source-and-type stratum that is too small for one pair in the smallest split is pooled with the others like it.
    """
    strata = Counter((pair.source, pair.qtype) for members in units.values() for pair in members)
    mixes: dict[str, Counter[str]] = {}
    for unit, members in units.items():
        mix: Counter[str] = Counter()
        for pair in members:
            pooled = strata[pair.source, pair.qtype] * smallest_share < 1
            stratum = "pooled" if pooled else f"stratum {pair.source!r} {pair.qtype!r}"
            mix.update((stratum, f"source {pair.source!r}", f"type {pair.qtype!r}"))
        # Counted four times over, because otherwise the rare strata, where one pair weighs most, decide the shares too.
        # On simulated corpora of some 300 pairs in 100 groups the worst share was 1.3 points off; counted once, 2.4.
        mix["all pairs"] = 4 * len(members)
        mixes[unit] = mix
    return mixes


def _lot(seed: int, name: str) -> bytes:
    """A random place in line that neither Python's version nor the other units can change."""
    return blake2b(f"{seed} {name}".encode(), digest_size=8).digest()


def _fill_empty(
    placed: dict[str, Split], units: Mapping[str, Sequence[QAPair]], shares: Mapping[Split, float]
) -> dict[str, Split]:
    """Give a split without any unit the smallest unit of the split that has most units; needs three units."""
    filled = dict(placed)
    for name in shares:
        counts = Counter(filled.values())
        if not counts[name]:
            donor = counts.most_common(1)[0][0]
            smallest = min((len(units[unit]), unit) for unit in filled if filled[unit] == donor)
            filled[smallest[1]] = name
    return filled


def _answered_in_train(pairs: Sequence[QAPair], placed: Mapping[str, Split]) -> list[str]:
    """Ids of the validation and test pairs whose normalised answer is that of a train pair."""
    answers = {pair.id: normalise(pair.answer) for pair in pairs}
    train = {answer for name, answer in answers.items() if placed[name] == "train" and answer}
    return [name for name, answer in answers.items() if placed[name] != "train" and answer in train]


def _check_left(placed: Mapping[str, Split], shares: Mapping[Split, float]) -> None:
    counts = Counter(placed.values())
    for name in shares:
        if not counts[name]:
            raise CorpusError(
                f"no {name} pair is left: the answer of every one of them also stands in train",
                hint="set split.exclude_shared_answers=false, or use a corpus with more different answers",
            )


def _too_few(pairs: Sequence[QAPair], found: int, grouped: bool) -> CorpusError:
    if not grouped or len(pairs) < 3:
        return CorpusError(
            f"{found} pairs cannot be divided into train, validation and test", hint="use a corpus with more pairs"
        )
    links = Counter(item for pair in pairs for item in link_keys(pair).items())
    shared = "".join(f"; {count} share the {kind} {key!r}" for (kind, key), count in links.most_common(1))
    return CorpusError(
        f"train, validation and test need three groups, found {found} in {len(pairs)} pairs{shared}",
        hint="pairs with the same focus, document or question stay together: check those columns, "
        "or set split.strategy=random, which leaks",
    )
