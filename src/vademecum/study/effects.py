"""How far two variants of a study differ, with the luck of training in the interval.

The difference of two variants is taken on the same test pairs: for each pair the mean score over one variant's seeds
minus that over the other's. Its variance has two parts: that of the choice of test pairs, clustered over groups, and
that of training again with another seed, s^2 (1/n + 1/m) for n and m seeds, where s is the standard deviation of the
mean score over the baseline's seeds. The interval is a t interval with (baseline seeds - 1) degrees of freedom.

It errs to the wide side in two ways. The scatter of the single scores from seed to seed is in both parts. And the
degrees of freedom are those of s alone, as if the other part were as badly known. It errs to the narrow side where a
variant varies more between its seeds than the baseline does: s is the baseline's, and taken for all of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from vademecum.evaluation import METRICS, clustered_standard_error
from vademecum.evaluation.compare import check_alike
from vademecum.records import Record, Score
from vademecum.study.records import BASELINE, TrialResult

BASE_MODEL = "base"
"""Stands for the untrained base model where a variant is held against it."""
VALIDATION_LOSS = "validation_loss"
STUDY_METRICS = (*METRICS, VALIDATION_LOSS)


class NoiseFloor(Record):
    """How much the baseline's mean differs from seed to seed."""

    mean: float
    """Over the baseline's seeds."""
    sd: float
    """Standard deviation over the seeds, with n - 1."""
    low: float
    """The lowest of them."""
    high: float
    """The highest."""
    seeds: int


class Effect(Record):
    """A variant minus another one, in one metric."""

    variant: str
    against: str
    metric: str
    difference: float
    low: float
    high: float
    level: float
    """Nominal coverage of [low, high]."""
    p: float
    """Two-sided, of no difference; not adjusted."""
    sampling_error: float
    """Clustered standard error over test pairs; 0 for the validation loss."""
    seed_error: float
    """s sqrt(1/n + 1/m)."""
    degrees_of_freedom: int
    n: int
    """Test pairs; 0 for the validation loss."""
    groups: int
    seeds: int
    against_seeds: int
    """0: the base model, which was not trained."""

    @property
    def standard_error(self) -> float:
        """Of the difference, both parts together."""
        return math.hypot(self.sampling_error, self.seed_error)

    def interval(self, level: float) -> tuple[float, float]:
        """A t interval of another coverage."""
        half = t_quantile((1 + level) / 2, self.degrees_of_freedom) * self.standard_error
        return self.difference - half, self.difference + half


@dataclass(frozen=True)
class Sample:
    """One difference per test pair, with the groups that the pairs belong to, and how many seeds stand behind it."""

    differences: Sequence[float]
    groups: Sequence[str]
    """Empty for the validation loss: there is one difference, and no error of sampling."""
    seeds: int
    against_seeds: int


@dataclass(frozen=True)
class Results:
    """The trials of a study by variant, and the scores of the tuned system by trial and pair."""

    trials: Mapping[str, Sequence[TrialResult]]
    scores: Mapping[str, Mapping[str, Score]]
    base: Mapping[str, Score]
    """Of the untrained base model; empty where they are not there."""
    level: float

    def measured(self, variant: str, metric: str) -> list[TrialResult]:
        """The trials of a variant that have this metric."""
        completed = [trial for trial in self.trials.get(variant, ()) if trial.status == "completed"]
        if metric == VALIDATION_LOSS:
            return [trial for trial in completed if trial.validation_loss is not None]
        return [trial for trial in completed if trial.name in self.scores]


def gather(
    trials: Sequence[TrialResult], scores: Mapping[str, Sequence[Score]], base: Sequence[Score], level: float
) -> Results:
    """Sort what the trials left behind; the order of the input is of no account.

    Raises RunError when two scores of one pair do not belong together: another group, reference or set of metrics.
    """
    first: dict[str, Score] = {}
    for rows in (base, *(scores[name] for name in sorted(scores))):
        for row in rows:
            check_alike(first.setdefault(row.id, row), row)
    variants = sorted({trial.variant for trial in trials})
    return Results(
        trials={
            name: sorted(
                (trial for trial in trials if trial.variant == name), key=lambda trial: (trial.seed, trial.name)
            )
            for name in variants
        },
        scores={name: {row.id: row for row in scores[name]} for name in sorted(scores)},
        base={row.id: row for row in base},
        level=level,
    )


def noise_floor(results: Results, metric: str) -> NoiseFloor | None:
    """From the baseline's completed trials, on the test pairs that they share; None with fewer than two."""
    trials = results.measured(BASELINE, metric)
    if len(trials) < 2:
        return None
    if metric == VALIDATION_LOSS:
        means = [trial.validation_loss for trial in trials if trial.validation_loss is not None]
    else:
        tables = [results.scores[trial.name] for trial in trials]
        shared = _shared(tables)
        if not shared:
            return None
        means = [fmean(table[name].metrics[metric] for name in shared) for table in tables]
    return NoiseFloor(mean=fmean(means), sd=stdev(means), low=min(means), high=max(means), seeds=len(means))


def measure(results: Results, variant: str, against: str, metric: str) -> Effect | None:
    """The effect of `variant` against another variant or against BASE_MODEL.

    None where one of the two has no completed trial, or the baseline fewer than two, or they share no test pair.
    """
    noise = noise_floor(results, metric)
    sample = _sample(results, variant, against, metric)
    if noise is None or sample is None:
        return None
    found = estimate_effect(sample, noise, results.level)
    return Effect.model_validate({"variant": variant, "against": against, "metric": metric, **found})


def estimate_effect(sample: Sample, noise: NoiseFloor, level: float) -> dict[str, float]:
    """The numbers of an Effect from the differences alone."""
    difference = fmean(sample.differences)
    sampling = clustered_standard_error(sample.differences, sample.groups) if sample.groups else 0.0
    seeds = noise.sd * math.sqrt(sum(1 / count for count in (sample.seeds, sample.against_seeds) if count))
    error, freedom = math.hypot(sampling, seeds), noise.seeds - 1
    half = t_quantile((1 + level) / 2, freedom) * error
    return {
        "difference": difference,
        "low": difference - half,
        "high": difference + half,
        "level": level,
        "p": _two_sided(difference, error, freedom),
        "sampling_error": sampling,
        "seed_error": seeds,
        "degrees_of_freedom": freedom,
        "n": len(sample.differences) if sample.groups else 0,
        "groups": len(set(sample.groups)),
        "seeds": sample.seeds,
        "against_seeds": sample.against_seeds,
    }


def t_quantile(share: float, degrees_of_freedom: int) -> float:
    """Of Student's t."""
    from scipy.stats import t

    return float(t.ppf(share, degrees_of_freedom))


def _two_sided(difference: float, error: float, degrees_of_freedom: int) -> float:
    from scipy.stats import t

    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * t.sf(abs(difference) / error, degrees_of_freedom))


def _sample(results: Results, variant: str, against: str, metric: str) -> Sample | None:
    ours = results.measured(variant, metric)
    theirs = [] if against == BASE_MODEL else results.measured(against, metric)
    if not ours or (not theirs and not (against == BASE_MODEL and results.base and metric != VALIDATION_LOSS)):
        return None
    if metric == VALIDATION_LOSS:
        return Sample([_mean_loss(ours) - _mean_loss(theirs)], (), len(ours), len(theirs))
    after = [results.scores[trial.name] for trial in ours]
    before = [results.scores[trial.name] for trial in theirs] or [results.base]
    shared = _shared([*after, *before])
    if not shared:
        return None
    differences = [
        fmean(table[name].metrics[metric] for table in after) - fmean(table[name].metrics[metric] for table in before)
        for name in shared
    ]
    return Sample(differences, [after[0][name].group for name in shared], len(ours), len(theirs))


def _mean_loss(trials: Sequence[TrialResult]) -> float:
    return fmean(trial.validation_loss for trial in trials if trial.validation_loss is not None)


def _shared(tables: Sequence[Mapping[str, Score]]) -> list[str]:
    """The pairs that stand in every table, in order of id."""
    return sorted(set.intersection(*(set(table) for table in tables)))
