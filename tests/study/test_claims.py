"""Every verdict reached by data made for it, and what studies that are not finished say."""

import math
import re
from typing import Any

import pytest
from scipy import stats
from tests.study.made_up import Study, build_study

from vademecum.errors import ConfigError
from vademecum.evaluation.compare import ALPHA
from vademecum.study.analysis import StudyAnalysis
from vademecum.study.claims import ClaimResult
from vademecum.study.effects import NoiseFloor, gather, measure, noise_floor
from vademecum.study.needed import find_needed
from vademecum.study.records import BASELINE

ADAFACTOR, DIVERGING = "optimizer=adafactor", "learning_rate=5e-3"
HIGHER = {"name": "AdamW beats Adafactor", "variant": "optimizer=adamw_torch", "against": ADAFACTOR}
DIVERGES = {"name": "5e-3 diverges", "variant": DIVERGING, "direction": "diverges"}
BEATS_DIVERGED = {"name": "1e-3 beats 5e-3", "variant": "learning_rate=1e-3", "against": DIVERGING}


def judged(study: Study) -> ClaimResult:
    (claim,) = study.analysed().claims
    return claim


def one(effect: float, margin: float = 0.01, noise: float = 0.004, **claim: str) -> ClaimResult:
    return judged(build_study({ADAFACTOR: effect}, [{**HIGHER, **claim}], margin=margin, noise=noise))


def test_a_claim_is_reproduced_where_the_claimed_side_is_shown() -> None:
    claim = one(-0.05)
    assert (claim.verdict, claim.variant, claim.against) == ("reproduced", BASELINE, ADAFACTOR)
    assert claim.low is not None and claim.low > 0
    assert claim.p_holm is not None and claim.p_holm < ALPHA
    assert re.match(
        r"The baseline scores 0\.\d+ higher than optimizer=adafactor in ROUGE-L \(95 % interval", claim.reason
    )
    assert "60 test pairs in 30 groups, 5 seeds against 2" in claim.reason
    assert claim.needed is None


def test_it_is_contradicted_where_the_other_side_is_shown() -> None:
    claim = one(+0.05)
    assert claim.verdict == "contradicted"
    assert claim.high is not None and claim.high < 0
    assert "lower than" in claim.reason


def test_of_a_loss_lower_can_be_claimed() -> None:
    claim = one(-0.05, metric="validation_loss", direction="lower")
    assert (claim.verdict, claim.n, claim.groups) == ("reproduced", 60, 30)
    assert "has a validation loss" in claim.reason and "60 validation pairs in 30 groups" in claim.reason


def test_it_is_no_real_difference_where_the_margin_covers_it() -> None:
    claim = one(0.0, margin=0.03)
    assert claim.verdict == "no real difference"
    assert claim.inner_low is not None and claim.inner_high is not None
    assert -0.03 < claim.inner_low < claim.inner_high < 0.03
    assert "lies within ±0.030" in claim.reason


def test_a_difference_that_is_shown_but_small_says_so() -> None:
    claim = one(-0.05, margin=0.2)
    assert claim.verdict == "reproduced"
    assert "smaller than the declared margin of 0.200 all the same" in claim.reason


def test_it_is_not_shown_otherwise_and_says_what_would_have_been_needed() -> None:
    claim = one(-0.015, noise=0.02, margin=0.005)
    assert claim.verdict == "not shown"
    assert claim.needed is not None and claim.needed.margin > 0.005
    assert re.search(r"would take about .*seeds? of each variant.* minutes?\)", claim.reason)
    assert f"a declared margin of {math.ceil(1000 * claim.needed.margin) / 1000:.3f} instead of 0.005" in claim.reason


@pytest.mark.parametrize("margin", [0.002, 0.005, 0.006, 0.008, 0.01, 0.015, 0.03])
def test_no_real_difference_is_two_one_sided_tests(margin: float) -> None:
    study = build_study({ADAFACTOR: 0.002}, [HIGHER], margin=margin)
    effect = measure(gather(study.trials, study.measured, 0.95), BASELINE, ADAFACTOR, "rougeL")
    assert effect is not None
    above = stats.t.sf((effect.difference + margin) / effect.standard_error, 4)
    below = stats.t.cdf((effect.difference - margin) / effect.standard_error, 4)
    assert (judged(study).verdict == "no real difference") is bool(max(above, below) < 0.05)


@pytest.mark.parametrize("effect", [-0.05, 0.05, 0.0])
def test_swapping_variant_and_against_turns_the_verdict(effect: float) -> None:
    turned = {"reproduced": "contradicted", "contradicted": "reproduced"}
    claim = one(effect, margin=0.03)
    swapped = one(effect, margin=0.03, variant=ADAFACTOR, against="optimizer=adamw_torch")
    mirrored = one(effect, margin=0.03, variant=ADAFACTOR, against="optimizer=adamw_torch", direction="lower")
    assert swapped.verdict == turned.get(claim.verdict, claim.verdict)
    assert mirrored.verdict == claim.verdict
    assert claim.difference is not None and swapped.difference == pytest.approx(-claim.difference)


def test_more_claims_ask_for_more() -> None:
    """A p that is enough for one claim is not for twelve, those that cannot be measured yet among them."""
    study = build_study({ADAFACTOR: -0.016, "warmup=0": 0.0}, [HIGHER])
    alone = judged(study)
    others = [{"name": f"other {n}", "variant": "warmup=200", "against": "warmup=0"} for n in range(11)]
    among = build_study({ADAFACTOR: -0.016, "warmup=0": 0.0}, [HIGHER, *others]).analysed().claims[0]
    assert alone.p == among.p
    assert (alone.p_holm, among.p_holm) == pytest.approx((alone.p, 12 * (alone.p or 0)))
    assert (alone.verdict, among.verdict) == ("reproduced", "not shown")


def test_few_groups_carry_no_verdict() -> None:
    study = build_study({ADAFACTOR: -0.05}, [HIGHER], pairs=12)
    claim = judged(study)
    assert claim.verdict == "not shown"
    assert "6 groups cannot carry a verdict, 10 are needed" in claim.reason


def test_seeds_that_change_nothing_measure_no_noise() -> None:
    study = build_study({ADAFACTOR: -0.05}, [HIGHER])
    for seed in range(1, 5):
        study.scores[f"baseline-seed{seed}"] = study.scores["baseline-seed0"]
    assert (judged(study).verdict, "do not differ at all" in judged(study).reason) == ("not shown", True)


def test_a_divergence_is_no_comparison_and_asks_for_nothing_more() -> None:
    alone = judged(build_study({ADAFACTOR: -0.016}, [HIGHER]))
    beside = build_study({ADAFACTOR: -0.016, DIVERGING: 0.0}, [HIGHER, DIVERGES, {**DIVERGES, "name": "again"}])
    assert beside.analysed().claims[0].p_holm == alone.p_holm == alone.p


def test_variants_that_come_to_the_same_settings_are_not_compared() -> None:
    study = build_study({ADAFACTOR: -0.05, "warmup=0": 0.0}, [HIGHER, {"name": "w", "variant": "warmup=0"}])
    apart, luck = study.analysed(same=[["baseline", ADAFACTOR]]).claims
    assert (apart.verdict, apart.p, "come to the same settings" in apart.reason) == ("not shown", None, True)
    assert luck.p is not None


def diverged(claims: list[dict[str, str]], *names: str) -> tuple[ClaimResult, ...]:
    return build_study({DIVERGING: 0.0}, claims).ended("diverged", *names).analysed().claims


def test_divergence_is_reproduced_by_all_contradicted_by_none_and_else_not_shown() -> None:
    both = [f"{DIVERGING}-seed{seed}" for seed in (0, 1)]
    assert diverged([DIVERGES], *both)[0].verdict == "reproduced"
    assert diverged([DIVERGES])[0].verdict == "contradicted"
    some = diverged([DIVERGES], both[0])[0]
    assert (some.verdict, some.reason) == (
        "not shown", "Of 2 trials of learning_rate=5e-3: 1 completed and 1 diverged.",
    )  # fmt: skip


@pytest.mark.parametrize(("status", "told"), [("failed", "2 failed"), (None, "1 diverged and 1 not run yet")])
def test_divergence_is_not_shown_by_trials_that_did_not_tell(status: Any, told: str) -> None:
    names = [f"{DIVERGING}-seed{seed}" for seed in (0, 1)]
    study = build_study({DIVERGING: 0.0}, [DIVERGES])
    found = judged(study.ended(status, *names) if status else study.ended("diverged", *names).without(names[1]))
    assert (found.verdict, told in found.reason) == ("not shown", True)


def ended_above(study: Study, *names: str) -> Study:
    """As if these trials' loss had ended above where it began, with numbers that are finite."""
    study.trials = [
        trial.model_copy(update={"final_loss": trial.losses[0][1] + 1.0}) if trial.name in names else trial
        for trial in study.trials
    ]
    return study


def test_a_loss_that_ends_above_its_start_is_a_divergence_too() -> None:
    both = [f"{DIVERGING}-seed{seed}" for seed in (0, 1)]
    whole = judged(ended_above(build_study({DIVERGING: 0.0}, [DIVERGES]), *both))
    assert (whole.verdict, "the training loss ended at" in whole.reason) == ("reproduced", True)
    half = judged(ended_above(build_study({DIVERGING: 0.0}, [DIVERGES]), both[0]))
    assert half.verdict == "not shown"
    assert "2 completed; the training loss of 1 of them ended above" in half.reason
    # It has scores, and they count.
    compared = judged(ended_above(build_study({DIVERGING: -0.05}, [BEATS_DIVERGED]), *both))
    assert (compared.verdict, compared.n) == ("reproduced", 60)


def test_a_loser_that_diverged_needs_no_scores() -> None:
    claim = diverged([BEATS_DIVERGED], f"{DIVERGING}-seed0", f"{DIVERGING}-seed1")[0]
    assert (claim.verdict, claim.difference, claim.n) == ("reproduced", None, 0)
    assert claim.reason.startswith("There are no scores to compare: learning_rate=5e-3 diverged in all of its 2 trials")


def test_a_winner_that_has_not_completed_everything_has_not_won() -> None:
    study = build_study({DIVERGING: 0.0}, [BEATS_DIVERGED])
    study = study.ended("diverged", f"{DIVERGING}-seed0", f"{DIVERGING}-seed1").ended("failed", "baseline-seed4")
    assert judged(study).verdict == "not shown"


def test_a_winner_that_diverged_has_lost() -> None:
    other = {"name": "5e-3 is best", "variant": DIVERGING, "against": "baseline"}
    loss = {**other, "metric": "validation_loss", "direction": "higher"}
    both = [f"{DIVERGING}-seed{seed}" for seed in (0, 1)]
    won, lost = diverged([other, loss], *both)
    assert (won.verdict, "diverged in all of its 2 trials" in won.reason) == ("contradicted", True)
    assert lost.verdict == "reproduced"  # a higher loss is what a loser has


def test_survivors_are_not_judged_in_silence() -> None:
    study = build_study({ADAFACTOR: -0.05}, [HIGHER]).ended("diverged", f"{ADAFACTOR}-seed1")
    claim = judged(study)
    assert (claim.verdict, claim.against_seeds) == ("reproduced", 1)
    assert claim.reason.endswith("of 2 trials of optimizer=adafactor: 1 completed and 1 diverged.")


def test_what_has_not_been_run_is_not_shown() -> None:
    study = build_study({ADAFACTOR: -0.05}, [HIGHER])
    nothing = judged(study.without(*(trial.name for trial in study.trials)))
    assert (nothing.verdict, nothing.p) == ("not shown", None)
    assert "the baseline has not been run; optimizer=adafactor has not been run" in nothing.reason
    half = judged(study.without(*(f"baseline-seed{seed}" for seed in range(1, 5))))
    assert half.reason == "Nothing can be compared: of 5 trials of the baseline: 1 completed and 4 not run yet."


def test_a_claim_about_the_baseline_and_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match="compares 'baseline' with itself"):
        build_study({}, [{**HIGHER, "against": "learning_rate=1e-3"}])


def test_a_level_that_the_baseline_has_is_the_baseline_in_a_grid_too() -> None:
    name = "optimizer=adafactor,warmup=0"
    claims = [{"name": "both", "variant": "optimizer=adafactor,learning_rate=1e-3,warmup=0", "against": "baseline"}]
    found = build_study({name: 0.05}, claims, design="grid").analysed()
    assert (found.claims[0].variant, found.claims[0].verdict) == (name, "reproduced")
    assert [row.factor for row in found.factors if row.variant == name] == ["combined"]
    assert f"{ADAFACTOR},learning_rate=5e-5,warmup=200, seed 1" in found.missing
    assert not any(entry.startswith(f"{name},") for entry in found.missing)


@pytest.mark.parametrize(("size", "claims"), [(-0.03, 1), (-0.03, 6), (0.0005, 3), (0.015, 1)])
def test_the_seeds_that_were_needed_are_the_fewest_that_suffice(size: float, claims: int) -> None:
    study = build_study({ADAFACTOR: size}, noise=0.02)
    results = gather(study.trials, study.measured, 0.95)
    effect, noise = measure(results, ADAFACTOR, BASELINE, "rouge1"), noise_floor(results, "rouge1")
    assert effect is not None and noise is not None
    found = find_needed(effect, noise, margin=0.02, claims=claims, minutes=12.0)

    def suffices(seeds: int) -> bool:
        """Whether one of the two verdicts would be reached 80 times in 100, by the t distribution's own tails."""
        ours, floor = max(seeds, 2), max(seeds, 5)
        error = math.sqrt(effect.sampling_error**2 + noise.sd**2 * (1 / ours + 1 / floor))
        size, freedom = abs(effect.difference), floor - 1
        different = stats.t.sf(stats.t.ppf(1 - ALPHA / claims / 2, freedom) - size / error, freedom)
        alike = 1 - 2 * stats.t.sf((0.02 - size) / error - stats.t.ppf(1 - ALPHA, freedom), freedom)
        return bool(max(different, alike if size < 0.02 else 0.0) >= 0.8)

    assert found.seeds is not None and suffices(found.seeds) and not suffices(found.seeds - 1)
    assert found.more_trials == max(0, found.seeds - 2) + max(0, found.seeds - 5)
    assert found.seed_minutes == pytest.approx(12.0 * found.more_trials)


def test_where_neither_seeds_nor_pairs_suffice_it_takes_both() -> None:
    study = build_study({ADAFACTOR: -0.01}, pairs=20, noise=0.01)
    results = gather(study.trials, study.measured, 0.95)
    effect = measure(results, ADAFACTOR, BASELINE, "rouge1")
    assert effect is not None
    wide = effect.model_copy(update={"difference": 0.01, "sampling_error": 0.01, "seed_error": 0.01})
    noise = NoiseFloor(mean=0.3, sd=0.012, low=0.28, high=0.31, seeds=5)
    found = find_needed(wide, noise, margin=0.001, claims=1, minutes=1.0)
    assert found.together and found.seeds is not None and found.pairs is not None
    error = math.sqrt(0.01**2 * 20 / found.pairs + 0.012**2 * 2 / found.seeds)
    asked = stats.t.ppf(0.975, found.seeds - 1) + stats.t.ppf(0.8, found.seeds - 1)
    assert asked * error <= 0.01 * 1.0001


def test_a_study_goes_through_json_and_back_with_a_loss_that_is_none() -> None:
    study = build_study({DIVERGING: 0.0}, [DIVERGES, HIGHER]).ended("diverged", f"{DIVERGING}-seed0")
    broken = {"losses": ((1, 2.0), (2, math.nan), (3, math.inf)), "final_loss": math.nan}
    study.trials = [trial.model_copy(update=broken) if trial.status == "diverged" else trial for trial in study.trials]
    found = study.analysed()
    assert StudyAnalysis.model_validate_json(found.model_dump_json()) == found
    assert [trial.losses for trial in found.trials if trial.status == "diverged"] == [((1, 2.0),)]
    assert {"trials", "factors", "noise_floor", "claims"} <= found.model_dump().keys()
    assert {"name", "verdict", "difference", "low", "high", "n"} <= found.model_dump()["claims"][0].keys()


def test_an_analysis_is_the_same_whatever_the_order() -> None:
    study = build_study({ADAFACTOR: -0.05, "warmup=0": 0.0}, [HIGHER, DIVERGES])
    found = study.analysed()
    study.trials.reverse()
    study.scores = {name: rows[::-1] for name, rows in reversed(study.scores.items())}
    study.losses = {name: rows[::-1] for name, rows in reversed(study.losses.items())}
    study.base.reverse()
    assert study.analysed() == found
    assert [trial.variant for trial in found.trials][:5] == [BASELINE] * 5
