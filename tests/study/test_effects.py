"""Effects with the luck of training in their intervals: closed forms, coverage, and what must always hold."""

import math
import random
from dataclasses import replace
from statistics import fmean, stdev

import numpy as np
import pytest
from scipy import stats
from tests.study.made_up import build_study

from vademecum.errors import RunError
from vademecum.evaluation import clustered_standard_error
from vademecum.study.effects import (
    BASE_MODEL,
    STUDY_METRICS,
    VALIDATION_LOSS,
    Measurements,
    NoiseFloor,
    Results,
    Sample,
    estimate_effect,
    gather,
    measure,
    noise_floor,
)
from vademecum.study.records import BASELINE

EFFECTS = {"optimizer=adafactor": -0.03, "warmup=0": 0.01}


@pytest.fixture(scope="module")
def results() -> Results:
    study = build_study(EFFECTS)
    return gather(study.trials, study.measured, 0.95)


def test_the_variance_is_that_of_the_pairs_and_that_of_the_seeds(results: Results) -> None:
    found = measure(results, "optimizer=adafactor", BASELINE, "rouge1")
    assert found is not None
    scores = results.values["rouge1"]
    ids = sorted(scores[BASE_MODEL])
    means = {
        variant: [fmean(scores[trial.name][name] for trial in results.trials[variant]) for name in ids]
        for variant in ("optimizer=adafactor", BASELINE)
    }
    by_pair = [ours - theirs for ours, theirs in zip(means["optimizer=adafactor"], means[BASELINE], strict=True)]
    by_group = [(by_pair[i] + by_pair[i + 1]) / 2 for i in range(0, len(by_pair), 2)]
    between_seeds = stdev(fmean(scores[trial.name].values()) for trial in results.trials[BASELINE])
    error = math.sqrt(stdev(by_group) ** 2 / len(by_group) + between_seeds**2 * (1 / 2 + 1 / 5))

    assert found.difference == pytest.approx(fmean(by_pair))
    assert found.standard_error == pytest.approx(error)
    assert found.high - found.difference == pytest.approx(stats.t.ppf(0.975, 4) * error)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(fmean(by_pair)) / error, 4))
    assert (found.n, found.groups, found.seeds, found.against_seeds) == (60, 30, 2, 5)
    assert found.low < -0.03 < found.high


def test_a_validation_loss_is_per_token_and_knows_of_its_pairs() -> None:
    study = build_study(EFFECTS)
    results = gather(study.trials, study.measured, 0.95)
    found, floor = measure(results, "warmup=0", BASELINE, VALIDATION_LOSS), noise_floor(results, VALIDATION_LOSS)
    losses = [trial.validation_loss or 0 for trial in results.trials[BASELINE]]
    ours = [trial.validation_loss or 0 for trial in results.trials["warmup=0"]]

    assert found is not None and floor is not None
    assert found.difference == pytest.approx(fmean(ours) - fmean(losses))
    assert (floor.mean, floor.sd) == pytest.approx((fmean(losses), stdev(losses)))
    assert found.seed_error == pytest.approx(stdev(losses) * math.sqrt(1 / 2 + 1 / 5))
    by_pair = [
        fmean(study.losses[trial.name][number].nats for trial in results.trials["warmup=0"])
        - fmean(study.losses[trial.name][number].nats for trial in results.trials[BASELINE])
        for number in range(60)
    ]
    tokens = [row.tokens for row in study.losses["baseline-seed0"]]
    rest = [nats - found.difference * count for nats, count in zip(by_pair, tokens, strict=True)]
    by_group = [(rest[i] + rest[i + 1]) / 2 / fmean(tokens) for i in range(0, 60, 2)]
    assert found.sampling_error == pytest.approx(stdev(by_group) / math.sqrt(30))
    assert (found.n, found.groups, found.degrees_of_freedom) == (60, 30, 4)


def test_the_losses_of_other_rows_change_nothing_for_the_rest() -> None:
    study = build_study(EFFECTS)
    shorter = [trial.name for trial in study.trials if trial.variant == "optimizer=adafactor"]
    cut = {
        name: [row.model_copy(update={"tokens": 1}) for row in rows] if name in shorter else rows
        for name, rows in study.losses.items()
    }
    before, after = (
        gather(study.trials, replace(study.measured, losses=losses), 0.95) for losses in (study.losses, cut)
    )
    assert noise_floor(after, VALIDATION_LOSS) == noise_floor(before, VALIDATION_LOSS)
    found = [measure(results, "warmup=0", BASELINE, VALIDATION_LOSS) for results in (before, after)]
    assert found[0] is not None and found[1] == found[0]


def test_two_variants_share_the_noise_of_the_baseline(results: Results) -> None:
    found = measure(results, "optimizer=adafactor", "warmup=0", "rougeL")
    noise = noise_floor(results, "rougeL")
    assert found is not None and noise is not None
    assert found.seed_error == pytest.approx(noise.sd * math.sqrt(1 / 2 + 1 / 2))


def test_the_base_model_was_not_trained_and_brings_no_seeds(results: Results) -> None:
    found = measure(results, BASELINE, BASE_MODEL, "rouge1")
    noise = noise_floor(results, "rouge1")
    assert found is not None and noise is not None
    assert found.seed_error == pytest.approx(noise.sd / math.sqrt(5))
    assert found.low < 0.08 < found.high
    assert measure(results, BASELINE, BASE_MODEL, VALIDATION_LOSS) is None


def test_the_interval_covers_the_truth_where_the_seeds_make_a_difference() -> None:
    """Another seed and other groups in each of 400 studies; an interval over test pairs alone misses far too often."""
    rng = np.random.default_rng(7)
    groups = [f"g{number // 2:02d}" for number in range(60)]
    truth, covered, naive = 0.02, 0, 0
    for _ in range(400):
        liking = np.repeat(rng.normal(0, 0.03, 30), 2)  # what the variant does to a group
        baseline = rng.normal(0, 0.01, (5, 1)) + rng.normal(0, 0.05, (5, 60))
        variant = truth + liking + rng.normal(0, 0.01) + rng.normal(0, 0.05, 60)
        differences = (variant - baseline.mean(axis=0)).tolist()
        means = baseline.mean(axis=1).tolist()
        noise = NoiseFloor(mean=fmean(means), sd=stdev(means), low=min(means), high=max(means), seeds=5)
        found = estimate_effect(Sample(differences, groups, 1, 5), noise, 0.95)
        covered += found["low"] <= truth <= found["high"]
        alone = stats.t.ppf(0.975, 29) * clustered_standard_error(differences, groups)
        naive += abs(found["difference"] - truth) <= alone

    # Nominal are 380; the interval errs to the wide side. Chance moves the count by about 4.
    assert 376 <= covered <= 400
    assert naive < 350


def test_a_loss_is_of_tokens_and_a_gain_that_every_token_has_is_known_without_error() -> None:
    groups = [f"g{number}" for number in range(40)]
    tokens = [10.0 + 7 * (number % 9) for number in range(40)]
    noise = NoiseFloor(mean=1.6, sd=0.0, low=1.6, high=1.6, seeds=5)
    same = estimate_effect(Sample([-0.04 * count for count in tokens], groups, 1, 5, tokens), noise, 0.95)
    assert (same["difference"], same["sampling_error"]) == pytest.approx((-0.04, 0.0), abs=1e-12)
    # Cochran 1977, (6.13): the variance of a ratio, by simulation.
    rng = np.random.default_rng(3)
    found, errors = [], []
    for _ in range(2000):
        counts = rng.integers(5, 80, 40).astype(float)
        gains = -0.04 * counts + rng.normal(0, 1.0, 40)
        one = estimate_effect(Sample(gains.tolist(), groups, 1, 5, counts.tolist()), noise, 0.95)
        found.append(one["difference"])
        errors.append(one["sampling_error"])
    assert fmean(errors) == pytest.approx(stdev(found), rel=0.1)


def test_the_order_of_the_input_does_not_matter(results: Results) -> None:
    study, draw = build_study(EFFECTS), random.Random(5)
    trials = draw.sample(study.trials, len(study.trials))
    scores = {name: draw.sample(study.scores[name], len(study.scores[name])) for name in reversed(list(study.scores))}
    losses = {name: draw.sample(study.losses[name], len(study.losses[name])) for name in reversed(list(study.losses))}
    base = draw.sample(study.base, len(study.base))
    shuffled = gather(trials, Measurements(scores, base, losses), 0.95)
    for metric in STUDY_METRICS:
        assert measure(shuffled, "warmup=0", BASELINE, metric) == measure(results, "warmup=0", BASELINE, metric)


def test_swapping_the_variants_turns_the_sign_and_nothing_else(results: Results) -> None:
    one = measure(results, "warmup=0", "optimizer=adafactor", "rouge2")
    other = measure(results, "optimizer=adafactor", "warmup=0", "rouge2")
    assert one is not None and other is not None
    assert one.difference == pytest.approx(-other.difference)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert one.p == pytest.approx(other.p)


def test_pairs_that_only_one_trial_answered_are_left_out() -> None:
    study = build_study(EFFECTS)
    study.scores["warmup=0-seed0"] = study.scores["warmup=0-seed0"][4:]
    found = measure(gather(study.trials, study.measured, 0.95), "warmup=0", BASELINE, "rouge1")
    assert found is not None and (found.n, found.groups) == (56, 28)


def test_scores_of_another_split_are_refused() -> None:
    study = build_study(EFFECTS)
    rows = study.scores["warmup=0-seed0"]
    study.scores["warmup=0-seed0"] = [rows[0].model_copy(update={"group": "elsewhere"}), *rows[1:]]
    with pytest.raises(RunError, match="differ in their group"):
        gather(study.trials, study.measured, 0.95)


def test_without_two_baselines_there_is_no_noise_floor_and_no_effect() -> None:
    study = build_study(EFFECTS).without(*(f"baseline-seed{seed}" for seed in range(1, 5)))
    found = gather(study.trials, study.measured, 0.95)
    assert noise_floor(found, "rougeL") is None
    assert measure(found, "warmup=0", BASELINE, "rougeL") is None
