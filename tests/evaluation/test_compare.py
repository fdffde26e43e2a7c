"""Verdicts: who is compared with whom, on which pairs, and what may be said."""

import json
import random
import re

import pytest

from vademecum.config.sections import EvaluateConfig
from vademecum.errors import RunError
from vademecum.evaluation.compare import POWER_FACTOR, compare, slices, summarise
from vademecum.evaluation.intervals import clustered_standard_error, holm
from vademecum.evaluation.metrics import METRICS
from vademecum.records import Comparison, QAPair, Score, Stopped

CONFIG = EvaluateConfig(resamples=1_000)


def scored(name: str, value: float, *, group: str = "", words: int = 10, stopped: Stopped = "end_token") -> Score:
    return Score(
        id=name,
        group=group or f"group of {name}",
        metrics=dict.fromkeys(METRICS, value),
        prediction_words=words,
        reference_words=20,
        stopped=stopped,
        looping=stopped == "loop",
    )


def system(level: float, *, n: int = 40, noise: float = 0.02, seed: int = 0) -> list[Score]:
    rng = random.Random(seed)
    return [scored(f"p{i:03d}", level + rng.uniform(-noise, noise)) for i in range(n)]


def find(comparisons: list[Comparison], baseline: str, name: str, metric: str = "rouge1") -> Comparison:
    (found,) = [c for c in comparisons if (c.baseline, c.system, c.metric) == (baseline, name, metric)]
    return found


def test_every_system_meets_every_one_before_it_and_the_confirmatory_come_first() -> None:
    scores = {name: system(0.2, seed=i) for i, name in enumerate(["tuned", "copy", "few-shot", "base"])}
    order = [(c.baseline, c.system) for c in compare(scores, CONFIG, 0)]

    assert order[::4] == [
        ("base", "tuned"),
        ("copy", "tuned"),
        ("base", "few-shot"),
        ("base", "copy"),
        ("few-shot", "copy"),
        ("few-shot", "tuned"),
    ]
    assert [c.metric for c in compare(scores, CONFIG, 0)][:4] == list(METRICS)
    assert compare({"base": system(0.2)}, CONFIG, 0) == []


@pytest.mark.parametrize(
    ("base", "tuned", "n", "verdict", "says"),
    [
        (
            0.2,
            0.3,
            40,
            "better",
            r"tuned scores 0\.\d{3} higher than base in ROUGE-1 \(95 % interval 0\.\d{3} to 0\.\d{3}",
        ),
        (
            0.3,
            0.2,
            40,
            "worse",
            r"tuned scores 0\.\d{3} lower than base in ROUGE-1 \(95 % interval -0\.\d{3} to -0\.\d{3}",
        ),
        (0.2, 0.2, 40, "not shown", r"not shown: .* difference below 0\.\d{3} could not be detected reliably"),
        (0.2, 0.3, 19, "not shown", r"not shown: 19 groups cannot carry a verdict, 20 are needed; tuned minus base"),
        (0.2, 0.3, 20, "better", r"20 pairs in 20 groups, p = 0\.\d+ after Holm"),
        (0.3, 0.2, 1, "not shown", r"not shown: 1 group cannot .* interval -1\.000 to 1\.000, 1 pair in 1 group,"),
    ],
)
def test_the_verdict_and_its_sentence(base: float, tuned: float, n: int, verdict: str, says: str) -> None:
    scores = {"base": system(base, n=n, seed=1), "tuned": system(tuned, n=n, seed=2)}
    found = find(compare(scores, CONFIG, 0), "base", "tuned")

    assert found.verdict == verdict
    assert re.search(says, found.reason)
    assert "\n" not in found.reason


def test_the_number_of_groups_counts_not_the_number_of_pairs() -> None:
    rows = {
        name: [scored(f"p{i}", level + i % 3 / 100, group=f"g{i % 19}") for i in range(190)]
        for name, level in (("base", 0.2), ("tuned", 0.4))
    }

    found = compare(rows, CONFIG, 0)
    assert {c.verdict for c in found} == {"not shown"}
    assert found[0].reason.startswith("not shown: 19 groups cannot carry a verdict")
    assert {c.verdict for c in compare(rows, EvaluateConfig(resamples=1_000, min_groups=19), 0)} == {"better"}


def test_an_adjusted_p_over_the_limit_gives_no_verdict() -> None:
    # With so few resamples the smallest p is 1/100, and 8 of them do not pass Holm.
    config = EvaluateConfig(resamples=99)
    scores = {"base": system(0.2, seed=1), "copy": system(0.25, seed=2), "tuned": system(0.3, seed=3)}
    found = find(compare(scores, config, 0), "base", "tuned")

    assert found.p == 0.01
    assert found.p_holm == pytest.approx(0.08)
    assert found.difference.low > 0
    assert found.verdict == "not shown"
    assert "corrected for the number of comparisons, that is not enough" in found.reason


def test_holm_runs_over_each_family_apart() -> None:
    scores = {name: system(0.2, noise=0.2, seed=i) for i, name in enumerate(["base", "few-shot", "copy", "tuned"])}
    found = compare(scores, CONFIG, 0)
    confirmatory, descriptive = found[:8], found[8:]

    assert {(c.baseline, c.system) for c in confirmatory} == {("base", "tuned"), ("copy", "tuned")}
    for family in (confirmatory, descriptive):
        assert [c.p_holm for c in family] == holm([c.p for c in family])


def test_pairs_are_joined_by_id_not_by_position() -> None:
    values = [i / 100 for i in range(40)]
    base = [scored(f"p{i:03d}", value) for i, value in enumerate(values)]
    tuned = [scored(f"p{i:03d}", value + 0.05 + i % 2 / 1000) for i, value in enumerate(values)]
    straight = compare({"base": base, "tuned": tuned}, CONFIG, 0)

    assert straight == compare({"base": base[::-1], "tuned": random.Random(1).sample(tuned, 40)}, CONFIG, 0)
    assert straight[0].verdict == "better"
    assert straight[0].difference.mean == pytest.approx(0.0505)


def test_only_shared_pairs_count_and_the_reason_says_how_many_do_not() -> None:
    found = compare({"base": system(0.2, n=43), "tuned": [*system(0.3), scored("extra", 1.0)]}, CONFIG, 0)[0]

    assert found.difference.n == 40
    assert found.reason.endswith("left out: 4 pairs that not both answered with the same reference")
    assert "left out" not in compare({"base": system(0.2), "tuned": system(0.3)}, CONFIG, 0)[0].reason


@pytest.mark.parametrize(
    ("tuned", "says"),
    [
        ([scored("a", 0.1), scored("a", 0.1)], "system 'tuned' has two scores for 'a'"),
        ([scored("b", 0.1)], "answered no pair in common"),
        ([scored("a", 0.1, group="elsewhere")], "differ in their group"),
        ([scored("a", 0.1).model_copy(update={"reference_words": 9})], "differ in their words of the reference"),
        ([scored("a", 0.1).model_copy(update={"metrics": {"rouge1": 0.1}})], "differ in their metrics"),
    ],
)
def test_scores_that_do_not_belong_together_are_an_error(tuned: list[Score], says: str) -> None:
    with pytest.raises(RunError, match=says):
        compare({"base": [scored("a", 0.1)], "tuned": tuned}, CONFIG, 0)


def test_the_smallest_detectable_difference_is_2_8_clustered_standard_errors() -> None:
    base, tuned = system(0.2, seed=1), system(0.2, seed=2)
    differences = [
        after.metrics["rouge1"] - before.metrics["rouge1"] for before, after in zip(base, tuned, strict=True)
    ]
    found = compare({"base": base, "tuned": tuned}, CONFIG, 0)[0]

    assert POWER_FACTOR == 2.8
    assert found.smallest_detectable == 2.8 * clustered_standard_error(differences, [row.group for row in base])


def test_equal_systems_have_no_difference_and_no_verdict() -> None:
    found = compare({"base": system(0.2), "tuned": system(0.2)}, CONFIG, 0)[0]

    assert (found.difference.low, found.difference.mean, found.difference.high) == (0, 0, 0)
    assert (found.p, found.verdict) == (1.0, "not shown")
    assert "-.000" not in found.reason


def test_systems_of_other_names_are_compared_too() -> None:
    found = compare({"mine": system(0.3), "base": system(0.2), "yours": system(0.3, seed=1)}, CONFIG, 0)

    assert [(c.baseline, c.system) for c in found[::4]] == [("base", "mine"), ("base", "yours"), ("mine", "yours")]


def test_the_summary_has_the_reports_names_and_counts() -> None:
    rows = [
        scored("a", 0.1, words=0),
        scored("b", 0.3, words=30, stopped="length"),
        scored("c", 0.2, words=30, stopped="loop"),
        scored("d", 0.2, words=20, group="group of c"),
    ]
    found = summarise(rows, CONFIG, 0)

    assert set(found) == {"n", "groups", "metrics", "length_ratio", "stopped_by_length", "empty", "looping"}
    assert (found["n"], found["groups"], found["length_ratio"]) == (4, 3, 1.0)
    assert (found["stopped_by_length"], found["empty"], found["looping"]) == (0.25, 0.25, 0.25)
    assert set(found["metrics"]) == set(METRICS)
    assert set(found["metrics"]["rouge1"]) == {"mean", "low", "high", "level", "n", "groups"}
    assert found["metrics"]["rouge1"]["mean"] == pytest.approx(0.2)
    json.dumps(found, allow_nan=False)
    json.dumps(summarise(rows[:1], CONFIG, 0), allow_nan=False)
    with pytest.raises(RunError, match="no scores"):
        summarise([], CONFIG, 0)


def test_small_slices_are_merged_alike_for_all_systems() -> None:
    sources = ["NIDDK"] * 6 + ["CDC"] * 5 + ["tiny"] * 4 + ["small"] + [""] * 7
    pairs = {
        f"p{i:03d}": QAPair(id=f"p{i:03d}", question="?", answer="!", source=source) for i, source in enumerate(sources)
    }
    scores = {"base": system(0.2, n=23), "tuned": system(0.3, n=23)[:14]}
    table = slices(scores, pairs, "source", CONFIG, 0)

    assert [(row["value"], row["system"], row["n"]) for row in table] == [
        ("CDC", "base", 5),
        ("CDC", "tuned", 5),
        ("NIDDK", "base", 6),
        ("NIDDK", "tuned", 6),
        ("not stated", "base", 7),
        ("other", "base", 5),
        ("other", "tuned", 3),
    ]
    assert set(table[0]) == {"field", "value", "system", "metric", "mean", "low", "high", "level", "n", "groups"}
    assert (table[0]["field"], table[0]["metric"]) == ("source", "rouge1")
    assert slices(scores, pairs, "qtype", CONFIG, 0) == []
    with pytest.raises(RunError, match="'p000' has no pair"):
        slices(scores, {}, "qtype", CONFIG, 0)
