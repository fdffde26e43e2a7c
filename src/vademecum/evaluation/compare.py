"""From scores to a verdict: paired differences, their intervals, and one plain sentence for each.

`tuned` against `base` and `tuned` against `copy` are what a run is made to find out: these comparisons are
*confirmatory*. All others are *descriptive*. Each kind is one family for Holm's method, so that looking at more
descriptive pairs does not weaken the confirmatory ones, and the same rule gives every verdict.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vademecum.config.sections import EvaluateConfig
from vademecum.errors import RunError
from vademecum.evaluation.intervals import clustered_standard_error, estimate, holm, paired_p
from vademecum.evaluation.metrics import METRICS
from vademecum.records import Comparison, Estimate, QAPair, Score, Verdict

CONFIRMATORY = frozenset({("base", "tuned"), ("copy", "tuned")})
"""(baseline, system) of the comparisons that a run is made for."""

ALPHA = 0.05
"""A verdict needs p after Holm below this."""

POWER_FACTOR = 2.8
"""1.96 + 0.84: standard errors between zero and a difference that a two-sided 5 % test finds 80 times in 100."""

SMALLEST_SLICE = 5
"""Slices with fewer pairs are merged."""

_ORDER = ("base", "few-shot", "copy", "tuned")


@dataclass(frozen=True, slots=True)
class _Measured:
    """A comparison before its p is adjusted."""

    baseline: str
    system: str
    metric: str
    difference: Estimate
    p: float
    smallest_detectable: float
    left_out: int
    """Pairs that only one of the two answered."""


def compare(scores: Mapping[str, Sequence[Score]], config: EvaluateConfig, seed: int) -> list[Comparison]:
    """Every system against every one before it (base, few-shot, copy, tuned, then others by name), in every metric.

    `scores` maps a system's name to its scores. Pairs are joined by id; those that only one of the two answered are
    left out, and the reason says how many. Confirmatory comparisons come first. `better` needs p after Holm below
    ALPHA and an interval above zero, `worse` the mirror image; with fewer than `config.min_groups` groups there is no
    verdict.

    Raises RunError when a system has an id twice, two systems share no pair, or their scores do not belong together:
    another group, another reference or another metric for the same id.
    """
    tables = {name: _by_id(name, rows) for name, rows in scores.items()}
    names = sorted(tables, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))
    versus = sorted(itertools.combinations(names, 2), key=lambda pair: pair not in CONFIRMATORY)
    measured = [row for baseline, system in versus for row in _measure(baseline, system, tables, config, seed)]
    comparisons: list[Comparison] = []
    for confirmatory in (True, False):
        family = [row for row in measured if ((row.baseline, row.system) in CONFIRMATORY) is confirmatory]
        adjusted = holm([row.p for row in family])
        comparisons += [_judge(row, p, config) for row, p in zip(family, adjusted, strict=True)]
    return comparisons


def summarise(scores: Sequence[Score], config: EvaluateConfig, seed: int) -> dict[str, Any]:
    """The entry of one system in report.json's `systems`.

    `metrics` holds an Estimate for each metric; `length_ratio` is the sum of the predictions' words over the sum of
    the references'; `stopped_by_length`, `empty` and `looping` are shares of one. Raises RunError without scores.
    """
    metrics = {metric: _estimate(scores, metric, config, seed).model_dump() for metric in METRICS}
    n = len(scores)
    return {
        "n": n,
        "groups": len({row.group for row in scores}),
        "metrics": metrics,
        "length_ratio": sum(row.prediction_words for row in scores) / sum(row.reference_words for row in scores),
        "stopped_by_length": sum(row.stopped == "length" for row in scores) / n,
        "empty": sum(row.prediction_words == 0 for row in scores) / n,
        "looping": sum(row.looping for row in scores) / n,
    }


def slices(
    scores_by_system: Mapping[str, Sequence[Score]],
    pairs: Mapping[str, QAPair],
    field: Literal["source", "qtype"],
    config: EvaluateConfig,
    seed: int,
) -> list[dict[str, Any]]:
    """ROUGE-1 of each system for each value of a field: rows of field, value, system, metric and an Estimate's fields.

    Values with fewer than SMALLEST_SLICE pairs are merged as `other`; pairs without the field are `not stated`, and
    where no pair has it the answer is empty. Slices are the same for all systems. They describe; no test is made.
    Raises RunError for a score without its pair.
    """
    values: dict[str, str] = {}
    for name in sorted({row.id for rows in scores_by_system.values() for row in rows}):
        if name not in pairs:
            raise RunError(f"the score {name!r} has no pair", hint="score again: `--force score`")
        values[name] = pairs[name].source if field == "source" else pairs[name].qtype
    if not any(values.values()):
        return []
    counts = {value: list(values.values()).count(value) for value in set(values.values())}
    labels = {
        name: "other" if counts[value] < SMALLEST_SLICE else value or "not stated" for name, value in values.items()
    }
    table = []
    for label in sorted(set(labels.values()), key=lambda label: (label in ("other", "not stated"), label)):
        for system, rows in scores_by_system.items():
            inside = [row for row in rows if labels[row.id] == label]
            if inside:
                found = _estimate(inside, "rouge1", config, seed).model_dump()
                table.append({"field": field, "value": label, "system": system, "metric": "rouge1", **found})
    return table


def _estimate(scores: Sequence[Score], metric: str, config: EvaluateConfig, seed: int) -> Estimate:
    return estimate(
        [row.metrics[metric] for row in scores],
        [row.group for row in scores],
        level=config.level,
        resamples=config.resamples,
        seed=seed,
    )


def _by_id(system: str, scores: Iterable[Score]) -> dict[str, Score]:
    table: dict[str, Score] = {}
    for row in scores:
        if row.id in table:
            raise RunError(f"system {system!r} has two scores for {row.id!r}", hint="score again: `--force score`")
        table[row.id] = row
    return table


def _measure(
    baseline: str, system: str, tables: Mapping[str, Mapping[str, Score]], config: EvaluateConfig, seed: int
) -> list[_Measured]:
    before, after = tables[baseline], tables[system]
    shared = sorted(before.keys() & after.keys())
    if not shared:
        raise RunError(f"{system!r} and {baseline!r} answered no pair in common", hint="compare runs of one corpus")
    for name in shared:
        check_alike(before[name], after[name])
    groups = [after[name].group for name in shared]
    rows = []
    for metric in METRICS:
        differences = [after[name].metrics[metric] - before[name].metrics[metric] for name in shared]
        rows.append(
            _Measured(
                baseline=baseline,
                system=system,
                metric=metric,
                difference=estimate(
                    differences,
                    groups,
                    level=config.level,
                    resamples=config.resamples,
                    seed=seed,
                    bounds=(-1.0, 1.0),
                ),
                p=paired_p(differences, groups, resamples=config.resamples, seed=seed),
                smallest_detectable=POWER_FACTOR * clustered_standard_error(differences, groups),
                left_out=len(before.keys() ^ after.keys()),
            )
        )
    return rows


def check_alike(before: Score, after: Score) -> None:
    """Raise RunError unless both scores can be of one pair in one split."""
    hint = "score both with the same corpus, split and metrics"
    for what, one, other in (
        ("group", before.group, after.group),
        ("words of the reference", before.reference_words, after.reference_words),
        ("metrics", sorted(before.metrics), sorted(after.metrics)),
    ):
        if one != other:
            raise RunError(f"two scores of {after.id!r} differ in their {what}: {one!r} and {other!r}", hint=hint)


def _judge(row: _Measured, p_holm: float, config: EvaluateConfig) -> Comparison:
    verdict: Verdict = "not shown"
    enough = row.difference.groups >= config.min_groups
    if enough and p_holm < ALPHA and row.difference.low > 0:
        verdict = "better"
    elif enough and p_holm < ALPHA and row.difference.high < 0:
        verdict = "worse"
    return Comparison(
        baseline=row.baseline,
        system=row.system,
        metric=row.metric,
        difference=row.difference,
        p=row.p,
        p_holm=p_holm,
        smallest_detectable=row.smallest_detectable,
        verdict=verdict,
        reason=_reason(row, p_holm, verdict, config),
    )


def _reason(row: _Measured, p_holm: float, verdict: Verdict, config: EvaluateConfig) -> str:
    found = row.difference
    what = f"ROUGE-{row.metric.removeprefix('rouge')}"
    numbers = (
        f"({100 * found.level:g} % interval {_number(found.low)} to {_number(found.high)}, {_count(found.n, 'pair')} "
        f"in {_count(found.groups, 'group')}, p = {_p(p_holm)} after Holm)"
    )
    measured = f"{row.system} minus {row.baseline} in {what} is {_number(found.mean)} {numbers}"
    if verdict != "not shown":
        direction = "higher" if verdict == "better" else "lower"
        sentence = f"{row.system} scores {_number(abs(found.mean))} {direction} than {row.baseline} in {what} {numbers}"
    elif found.groups < config.min_groups:
        sentence = (
            f"not shown: {_count(found.groups, 'group')} cannot carry a verdict, {config.min_groups} are needed; "
            f"{measured}"
        )
    elif is_for_want_of_correction(found.mean, row.smallest_detectable, row.p, p_holm):
        sentence = f"not shown: {measured}; corrected for the number of comparisons, that is not enough for a verdict"
    else:
        sentence = (
            f"not shown: {measured}; a difference below {_number(row.smallest_detectable)} could not be detected "
            "reliably with these pairs"
        )
    if row.left_out:
        sentence += f"; left out: {_count(row.left_out, 'pair')} that not both answered with the same reference"
    return sentence


def is_for_want_of_correction(difference: float, smallest_detectable: float, p: float, p_holm: float) -> bool:
    """Whether a difference that is large enough to be found was not shown because several were looked at."""
    return abs(difference) >= smallest_detectable and p < ALPHA <= p_holm


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def _number(value: float) -> str:
    """Three decimals, and no minus before a zero."""
    return f"{value:z.3f}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.4f}"
