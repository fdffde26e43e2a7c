"""No group crosses the sides, the shares are kept, and nothing depends on the order of the input."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vademecum.config import CorpusConfig, SplitConfig
from vademecum.corpus.cleaning import clean
from vademecum.corpus.leakage import audit_leakage
from vademecum.corpus.medquad import read_medquad
from vademecum.corpus.splitting import group_pairs, split
from vademecum.errors import CorpusError
from vademecum.records import Assignment, QAPair

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def a_pair(name: str, **fields: object) -> QAPair:
    return QAPair.model_validate({"id": name, "question": f"Q {name}?", "answer": f"A {name}.", **fields})


def corpus_of(sizes: Sequence[int]) -> list[QAPair]:
    """One focus per size, three sources, six question types."""
    return [
        a_pair(f"{focus}#{n}", focus=f"focus {focus}", source=f"S{focus % 3}", qtype=f"t{(focus + n) % 6}")
        for focus, size in enumerate(sizes)
        for n in range(size)
    ]


def splits_of(assignments: Sequence[Assignment]) -> dict[str, str]:
    return {assignment.id: assignment.split for assignment in assignments}


names = st.sampled_from(["", "a", "b", "c", "d", "e", "f", "g", "h"])
rows = st.fixed_dictionaries(
    {"focus": names, "document": names, "cuis": st.lists(names, max_size=2)},
    optional={"question": names, "answer": names, "source": names, "qtype": names},
)
corpora = st.lists(rows, min_size=3, max_size=40).map(
    lambda found: [a_pair(str(n), **row) for n, row in enumerate(found)]
)


def split_or_reason(pairs: Sequence[QAPair], config: SplitConfig, seed: int) -> list[Assignment] | str:
    try:
        return split(pairs, config, seed)
    except CorpusError as error:
        return error.message


@settings(deadline=None)
@given(corpora, st.integers(0, 5))
def test_no_group_and_nothing_that_links_crosses_train_validation_and_test(pairs: list[QAPair], seed: int) -> None:
    found = split_or_reason(pairs, SplitConfig(exclude_shared_answers=False), seed)
    if isinstance(found, str):
        assert "three groups" in found
        return
    sides: dict[tuple[str, str], set[str]] = defaultdict(set)
    by_id = {pair.id: pair for pair in pairs}
    for assignment in found:
        pair = by_id[assignment.id]
        for kind, value in [("focus", pair.focus), ("document", pair.document), ("question", pair.question)]:
            if value:
                sides[kind, value].add(assignment.split)
        sides["group", assignment.group].add(assignment.split)
    assert all(len(found) == 1 for found in sides.values())
    assert {assignment.split for assignment in found} == set(SHARES)


@settings(deadline=None)
@given(corpora.flatmap(lambda pairs: st.tuples(st.just(pairs), st.permutations(pairs))))
@pytest.mark.parametrize("strategy", ["grouped", "random"])
def test_the_order_of_the_input_does_not_matter(strategy: str, both: tuple[list[QAPair], list[QAPair]]) -> None:
    config = SplitConfig.model_validate({"strategy": strategy})
    assert split_or_reason(both[0], config, 3) == split_or_reason(both[1], config, 3)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 6), min_size=90, max_size=110), st.sampled_from([(0.8, 0.1), (0.6, 0.1), (0.34, 0.33)]))
def test_shares_stay_within_two_points(sizes: list[int], shares: tuple[float, float]) -> None:
    train, validation = shares
    test = 1 - train - validation
    pairs = corpus_of(sizes)
    for strategy in ("grouped", "random"):
        config = SplitConfig.model_validate(
            {"strategy": strategy, "train": train, "validation": validation, "test": test}
        )
        counts = Counter(splits_of(split(pairs, config, 0)).values())
        for name, share in {"train": train, "validation": validation, "test": test}.items():
            assert abs(counts[name] / len(pairs) - share) <= 0.02


def test_result_is_sorted_by_id_and_the_same_for_the_same_seed() -> None:
    pairs = corpus_of([3] * 40)
    first = split(pairs, SplitConfig(), 7)
    assert first == split(pairs, SplitConfig(), 7)
    assert [assignment.id for assignment in first] == sorted(pair.id for pair in pairs)


@pytest.mark.parametrize("strategy", ["grouped", "random"])
def test_another_seed_gives_another_split(strategy: str) -> None:
    pairs, config = corpus_of([3] * 40), SplitConfig.model_validate({"strategy": strategy})
    assert len({tuple(splits_of(split(pairs, config, seed)).values()) for seed in range(5)}) == 5


def test_a_known_split_does_not_move_between_versions() -> None:
    found = split(corpus_of([2] * 12), SplitConfig(), 0)
    assert {a.id for a in found if a.split != "train"} == {"8#0", "8#1", "9#0", "9#1"}


def test_every_size_of_group_reaches_test_in_its_share() -> None:
    # Large groups must not all go to train: test would then hold an easier kind of focus.
    pairs = corpus_of([20] * 60 + [2] * 600)
    in_test: Counter[bool] = Counter()
    for assignment in split(pairs, SplitConfig(), 1):
        if assignment.split == "test":
            in_test[int(assignment.id.split("#")[0]) < 60] += 1
    assert in_test[True] == pytest.approx(120, abs=20)
    assert in_test[False] == pytest.approx(120, abs=20)


@pytest.mark.parametrize("strategy", ["grouped", "random"])
def test_sources_and_types_keep_their_shares(strategy: str) -> None:
    pairs = corpus_of([3] * 400)
    by_id = {pair.id: pair for pair in pairs}
    found = splits_of(split(pairs, SplitConfig.model_validate({"strategy": strategy}), 0))
    test = [by_id[name] for name, side in found.items() if side == "test"]
    for field, kinds in (("source", 3), ("qtype", 6)):
        counts = Counter(pair.model_dump()[field] for pair in test)
        assert all(abs(count / len(test) - 1 / kinds) < 0.02 for count in counts.values())
        assert len(counts) == kinds


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"focus": "Asthma"}, {"focus": " aSTHMA "}),
        ({"document": "d/1"}, {"document": "d/1"}),
        ({"question": "What is X-linked asthma ?"}, {"question": "what is x linked asthma"}),
        ({"cuis": ["C1"], "focus": "one"}, {"cuis": ["C2", "C1"], "focus": "other"}),
    ],
)
def test_what_links(one: dict[str, object], other: dict[str, object]) -> None:
    pairs = [a_pair("b", **one), a_pair("a", **other), a_pair("c")]
    assert group_pairs(pairs, cui_max_foci=2) == {"a": "a", "b": "a", "c": "c"}


def test_links_chain_and_the_smallest_id_names_the_group() -> None:
    pairs = [a_pair("z", focus="x"), a_pair("y", focus="x", document="d"), a_pair("b", document="d"), a_pair("a")]
    assert group_pairs(pairs, 0) == {"z": "b", "y": "b", "b": "b", "a": "a"}


def test_empty_fields_and_equal_answers_link_nothing() -> None:
    pairs = [a_pair(name, question="?!", answer="the same", cuis=["", ""]) for name in "abc"]
    assert set(group_pairs(pairs, 9).values()) == {"a", "b", "c"}


def test_a_cui_links_only_while_few_foci_carry_it() -> None:
    pairs = [a_pair(str(n), focus=f"focus {n}", cuis=["C1"]) for n in range(4)]
    assert len(set(group_pairs(pairs, 3).values())) == 4
    assert len(set(group_pairs(pairs, 4).values())) == 1
    assert len(set(group_pairs(pairs[:3], 3).values())) == 1
    assert len(set(group_pairs(pairs[:3], 0).values())) == 3


def test_pairs_without_a_focus_do_not_make_a_cui_specific() -> None:
    pairs = [a_pair(str(n), cuis=["C1"]) for n in range(4)]
    assert len(set(group_pairs(pairs, 3).values())) == 4


def test_random_moves_pairs_alone_and_records_the_same_groups() -> None:
    pairs = corpus_of([10] * 30)
    found = split(pairs, SplitConfig(strategy="random"), 0)
    assert {a.id: a.group for a in found} == group_pairs(pairs, 3)
    sides = defaultdict(set)
    for assignment in found:
        sides[assignment.group].add(assignment.split)
    assert max(len(reached) for reached in sides.values()) == 3


def test_shared_answers_are_excluded_from_validation_and_test_only() -> None:
    pairs = corpus_of([3] * 40)
    before = splits_of(split(pairs, SplitConfig(), 0))
    one_of = {side: next(name for name in before if before[name] == side) for side in SHARES}
    shared = [
        pair.model_copy(update={"answer": "Same!" if pair.id in one_of.values() else pair.answer}) for pair in pairs
    ]
    after = splits_of(split(shared, SplitConfig(), 0))
    assert {name for name in after if after[name] == "excluded"} == {one_of["validation"], one_of["test"]}
    assert all(after[name] == before[name] for name in after if after[name] != "excluded")
    assert "excluded" not in splits_of(split(shared, SplitConfig(exclude_shared_answers=False), 0)).values()
    assert "excluded" not in splits_of(split(shared, SplitConfig(strategy="random"), 0)).values()


def test_an_answer_shared_by_validation_and_test_alone_stays() -> None:
    pairs = corpus_of([3] * 40)
    before = splits_of(split(pairs, SplitConfig(), 0))
    shared = [pair.model_copy(update={"answer": "Same!"}) if before[pair.id] != "train" else pair for pair in pairs]
    assert splits_of(split(shared, SplitConfig(), 0)) == before


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=3, max_size=6), st.integers(0, 3))
def test_three_groups_are_enough_for_three_splits(sizes: list[int], seed: int) -> None:
    assert set(splits_of(split(corpus_of(sizes), SplitConfig(), seed)).values()) == set(SHARES)


@pytest.mark.parametrize(
    ("pairs", "config", "said"),
    [
        (corpus_of([4, 4]), {}, ["three groups, found 2 in 8 pairs", "4 share the focus 'focus 0'"]),
        ([], {}, ["0 pairs cannot be divided"]),
        (corpus_of([2]), {"strategy": "random"}, ["2 pairs cannot be divided"]),
        ([a_pair("x"), a_pair("x"), a_pair("y")], {}, ["'x' appears 2 times"]),
        ([a_pair(name, answer="one") for name in "abcd"], {}, ["no validation pair is left"]),
    ],
)
def test_what_cannot_be_split_says_why(pairs: list[QAPair], config: dict[str, str], said: list[str]) -> None:
    with pytest.raises(CorpusError) as caught:
        split(pairs, SplitConfig.model_validate(config), 0)
    assert all(part in caught.value.message for part in said)
    assert caught.value.hint


@cache
def medquad() -> list[QAPair]:
    beside = Path(__file__).resolve().parents[3] / "shared" / "data" / "MedQuAD-master.zip"
    path = Path(os.environ.get("VADE_MEDQUAD") or beside)
    if not path.exists():
        pytest.skip(f"needs the MedQuAD archive: set VADE_MEDQUAD, or put it at {beside}")
    return clean(read_medquad(path), CorpusConfig())[0]


@pytest.mark.parametrize(
    ("cui_max_foci", "groups", "largest"),
    [(0, 4717, 58), (2, 4269, 58), (3, 4048, 58), (4, 3891, 72), (5, 3827, 113), (10, 3561, 768), (10**6, 2999, 3330)],
)
def test_group_sizes_on_the_real_archive(cui_max_foci: int, groups: int, largest: int) -> None:
    sizes = Counter(group_pairs(medquad(), cui_max_foci).values())
    assert (len(sizes), max(sizes.values())) == (groups, largest)


@pytest.mark.parametrize(("cui_max_foci", "expected"), [(0, 0.41), (3, 0.23), (5, 0.16), (10**6, 0.0)])
def test_share_of_test_pairs_with_a_cui_in_train(cui_max_foci: int, expected: float) -> None:
    pairs = medquad()
    found = splits_of(split(pairs, SplitConfig(cui_max_foci=cui_max_foci), 0))
    train = {cui for pair in pairs if found[pair.id] == "train" for cui in pair.cuis}
    test = [pair for pair in pairs if found[pair.id] == "test"]
    related = sum(not train.isdisjoint(pair.cuis) for pair in test)
    assert related / len(test) == pytest.approx(expected, abs=0.04)


def test_grouped_on_the_real_archive_leaks_nothing_and_keeps_the_shares() -> None:
    pairs = medquad()
    assignments = split(pairs, SplitConfig(), 0)
    leakage = audit_leakage(pairs, assignments)
    assert (leakage.question, leakage.answer, leakage.focus, leakage.document) == (0, 0, 0, 0)
    counts = Counter(splits_of(assignments).values())
    assert all(abs(counts[name] / len(pairs) - share) <= 0.02 for name, share in SHARES.items())
    assert 80 < counts["excluded"] < 140
    # Most long copies are tables that end with one and the same explanation; without them few are left.
    assert leakage.ngram13 == pytest.approx(0.18, abs=0.02)
    texts = [pair for pair in pairs if "Human Phenotype Ontology" not in pair.answer]
    assert audit_leakage(texts, assignments).ngram13 == pytest.approx(0.075, abs=0.02)


def test_random_on_the_real_archive_leaks_as_published() -> None:
    pairs = medquad()
    leakage = audit_leakage(pairs, split(pairs, SplitConfig(strategy="random"), 0))
    assert leakage.question == pytest.approx(0.18, abs=0.02)
    assert leakage.answer == pytest.approx(0.04, abs=0.01)
    assert leakage.focus == pytest.approx(0.86, abs=0.02)
    assert leakage.document == pytest.approx(0.84, abs=0.02)
    assert leakage.ngram13 == pytest.approx(0.23, abs=0.025)
