"""Every verdict reached by data made for it, and what studies that are not finished say."""

import math
import re
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from scipy import stats
from tests.study.made_up import Study, build_study

from vademecum.errors import ConfigError
from vademecum.evaluation.compare import ALPHA
from vademecum.study.analysis import StudyAnalysis
from vademecum.study.claims import ClaimResult
from vademecum.study.design import lay_out_design
from vademecum.study.effects import NoiseFloor, gather, measure, noise_floor
from vademecum.study.needed import find_needed, order_seeds
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
    assert re.search(r"would take about .*seeds? of each variant.* minutes?: .*\)", claim.reason)
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


@pytest.mark.parametrize("missing", ["baseline-seed4", f"{ADAFACTOR}-seed1"])
def test_there_is_no_verdict_before_all_declared_trials_have_ended(missing: str) -> None:
    """Else whoever looks often stops where the numbers please."""
    claim = judged(build_study({ADAFACTOR: -0.05}, [HIGHER]).without(missing))
    assert (claim.verdict, claim.p_holm, claim.needed) == ("not shown", None, None)
    assert claim.p is not None and claim.p < ALPHA  # it would have been shown
    assert re.match(
        r"Interim, no verdict before all declared trials have ended: so far the baseline minus optimizer=adafactor in "
        r"ROUGE-L is \+0\.\d+ \(95 % interval .*, \d seeds? against \d\); of \d trials of .* and 1 not run yet\.$",
        claim.reason,
    )


def test_the_baseline_s_seeds_are_waited_for_by_claims_of_others_too() -> None:
    apart = {"name": "w", "variant": "warmup=200", "against": "warmup=0"}
    study = build_study({"warmup=0": 0.0, "warmup=200": 0.05}, [apart])
    assert judged(study).verdict == "reproduced"
    found = judged(study.without("baseline-seed4"))
    assert (found.verdict, "5 trials of the baseline: 4 completed and 1 not run yet" in found.reason) == (
        "not shown", True,
    )  # fmt: skip


def test_a_claim_that_waits_does_not_help_the_others() -> None:
    """A small p that may still change counts as 1 for Holm."""
    effects, waiting = (
        {ADAFACTOR: -0.016, "warmup=0": -0.09},
        {"name": "w", "variant": "baseline", "against": "warmup=0"},
    )
    study = build_study(effects, [HIGHER, waiting])
    whole, half = study.analysed().claims, study.without("warmup=0-seed1").analysed().claims
    assert whole[0].p == half[0].p and (whole[1].p or 1) < (whole[0].p or 0)
    assert (whole[0].p_holm, half[0].p_holm) == pytest.approx((whole[0].p, 2 * (half[0].p or 0)))


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


def test_what_was_seen_in_one_training_is_not_shown() -> None:
    """Neither that it diverges, nor that it does not, nor what lost by diverging."""
    study = build_study({DIVERGING: 0.0, ADAFACTOR: 0.0}, [DIVERGES, BEATS_DIVERGED], seeds=1)
    steady, compared = study.analysed().claims
    assert (steady.verdict, compared.n) == ("not shown", 60)
    assert steady.reason.startswith("learning_rate=5e-3 diverged in none of its 1 trial")
    one, beaten = study.ended("diverged", f"{DIVERGING}-seed0").analysed().claims
    assert (one.verdict, beaten.verdict) == ("not shown", "not shown")
    written = "seeds = [0, 1] in the factor of learning_rate=5e-3"
    needed = f"seen in one training, and a verdict takes 2 trials or more: {written}."
    assert one.reason == f"learning_rate=5e-3 diverged in its only trial; {needed}"
    assert beaten.reason.endswith(f"in none of its 5 trials; {needed}")


def ended_above(study: Study, *names: str) -> Study:
    """As if these trials had ended worse on validation pairs than untrained, with numbers that are finite."""
    study.trials = [
        trial.model_copy(update={"validation_loss": (trial.untrained_loss or 0) + 1.0})
        if trial.name in names
        else trial
        for trial in study.trials
    ]
    return study


def test_claims_that_can_never_be_shown_do_not_help_others() -> None:
    """With too few groups of validation pairs their small p would take the first ranks in Holm's method."""
    loss = {"metric": "validation_loss", "direction": "lower"}
    others = [{**HIGHER, **loss, "name": f"loss {number}", "against": "warmup=0"} for number in range(11)]
    study = build_study({ADAFACTOR: -0.016, "warmup=0": -0.1}, [HIGHER, *others])
    few = {
        name: [row.model_copy(update={"group": f"{int(row.group[-1]) % 5}"}) for row in rows]
        for name, rows in study.losses.items()
    }
    found = replace(study, losses=few).analysed().claims
    assert found[0].p is not None and found[1].p is not None and found[1].p < found[0].p
    assert {(claim.verdict, claim.p_holm) for claim in found[1:]} == {("not shown", None)}
    assert "after Holm" not in found[1].reason and "groups cannot carry a verdict" in found[1].reason
    assert found[0].p_holm == pytest.approx(min(1.0, 12 * found[0].p))


def test_what_luck_is_measured_by_is_told_between_two_other_variants_too() -> None:
    study = build_study({ADAFACTOR: -0.05, "warmup=0": 0.0}, [{**HIGHER, "variant": "warmup=0"}])
    whole = judged(study)
    assert (whole.noise_seeds, "baseline" in whole.reason) == (5, False)
    part = judged(study.ended("diverged", *(f"baseline-seed{seed}" for seed in range(3))))
    assert part.noise_seeds == 2
    assert "of 5 trials of the baseline: 2 completed and 3 diverged" in part.reason


def test_a_loss_that_ends_above_its_start_is_a_divergence_too() -> None:
    both = [f"{DIVERGING}-seed{seed}" for seed in (0, 1)]
    whole = judged(ended_above(build_study({DIVERGING: 0.0}, [DIVERGES]), *both))
    assert (whole.verdict, "the validation loss ended at" in whole.reason) == ("reproduced", True)
    half = judged(ended_above(build_study({DIVERGING: 0.0}, [DIVERGES]), both[0]))
    assert half.verdict == "not shown"
    assert "2 completed; the validation loss of 1 of them ended above the untrained model's" in half.reason
    # It has scores, and they count.
    compared = judged(ended_above(build_study({DIVERGING: -0.05}, [BEATS_DIVERGED]), *both))
    assert (compared.verdict, compared.n) == ("reproduced", 60)


def test_a_high_training_loss_at_the_end_or_a_low_one_at_the_start_is_no_divergence() -> None:
    """One step's loss is of a few rows: what it is compared with must be of the same ones."""
    study = build_study({DIVERGING: 0.0}, [DIVERGES])
    study.trials = [trial.model_copy(update={"final_loss": 9.0}) for trial in study.trials]
    assert judged(study).verdict == "contradicted"


def test_without_a_validation_loss_only_what_is_not_finite_is_a_divergence() -> None:
    study = build_study({DIVERGING: 0.0}, [DIVERGES])
    study.trials = [
        trial.model_copy(update={"validation": (), "validation_loss": None, "final_loss": 9.0})
        for trial in study.trials
    ]
    assert judged(study).verdict == "contradicted" and "untrained" not in judged(study).reason
    assert judged(study.ended("diverged", *(f"{DIVERGING}-seed{seed}" for seed in (0, 1)))).verdict == "reproduced"


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
    assert nothing.reason.startswith(
        "Interim, nothing can be compared yet: the baseline has not been run; optimizer=ad"
    )
    half = judged(study.without(*(f"baseline-seed{seed}" for seed in range(1, 5))))
    assert half.reason == (
        "Interim, nothing can be compared yet: of 5 trials of the baseline: 1 completed and 4 not run yet."
    )


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
    order = partial(order_seeds, study.design, (ADAFACTOR, BASELINE))
    found = find_needed(effect, noise, margin=0.02, claims=claims, minutes=12.0, order=order)

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


def test_the_trials_that_are_priced_are_those_that_the_sentence_s_words_would_add() -> None:
    """A factor's seeds are those of all its levels: the other learning rate is trained again too."""
    slow = {"name": "x", "variant": "learning_rate=5e-5", "against": ADAFACTOR}
    effects = {"learning_rate=5e-5": -0.012, DIVERGING: 0.0, ADAFACTOR: 0.0}
    study = build_study(effects, [slow], noise=0.012, margin=0.001)
    claim = judged(study)
    assert claim.needed is not None and claim.needed.seeds is not None
    for name in ("learning_rate=5e-5", ADAFACTOR):
        assert f" in the factor of {name}" in (claim.needed.declare or "")
    assert f"({claim.needed.more_trials:,} trials more, " in claim.reason
    assert f": {claim.needed.declare})" in claim.reason
    seeds = tuple(range(claim.needed.seeds))
    factors = tuple(
        factor.model_copy(update={"seeds": seeds}) if factor.name != "warmup" else factor
        for factor in study.config.factors
    )
    wider = study.config.model_copy(update={"baseline_seeds": seeds, "factors": factors})
    assert claim.needed.more_trials == len(lay_out_design(wider).trials()) - len(study.design.trials())


def test_more_seeds_keep_those_that_there_are() -> None:
    study = build_study({}, baseline_seeds=[7, 1], seeds=1)
    assert order_seeds(study.design, [ADAFACTOR], 3) == (
        3, "baseline_seeds = [0, 1, 7], and seeds = [0, 1, 2] in the factor of optimizer=adafactor",
    )  # fmt: skip
    assert order_seeds(study.design, [BASELINE], 2) == (0, "")
    assert "baseline_seeds = [0, 1, 2, 3, 4, 5, 6, 7, 8]" not in order_seeds(study.design, [BASELINE], 9).written
    assert order_seeds(build_study({}).design, [BASELINE], 40) == (35, "baseline_seeds = [0, 1, …, 39]")


def test_a_single_trial_that_completed_has_not_outlived_two_that_diverged() -> None:
    claim = {"name": "x", "variant": ADAFACTOR, "against": DIVERGING}
    factors = [
        {"name": "optimizer", "levels": ["train.optim=adafactor"]},
        {"name": "learning_rate", "levels": ["train.learning_rate=5e-3"], "seeds": [3, 4]},
    ]
    study = build_study({DIVERGING: 0.0, ADAFACTOR: 0.0}, [claim], seeds=1, factors=factors)
    found = judged(study.ended("diverged", f"{DIVERGING}-seed3", f"{DIVERGING}-seed4"))
    assert found.verdict == "not shown"
    assert found.reason.endswith("takes 2 trials or more: seeds = [0, 1] in the factor of optimizer=adafactor.")


def test_where_neither_seeds_nor_pairs_suffice_it_takes_both() -> None:
    study = build_study({ADAFACTOR: -0.01}, pairs=20, noise=0.01)
    results = gather(study.trials, study.measured, 0.95)
    effect = measure(results, ADAFACTOR, BASELINE, "rouge1")
    assert effect is not None
    wide = effect.model_copy(update={"difference": 0.01, "sampling_error": 0.01, "seed_error": 0.01})
    noise = NoiseFloor(mean=0.3, sd=0.012, low=0.28, high=0.31, seeds=5)
    order = partial(order_seeds, study.design, (ADAFACTOR, BASELINE))
    found = find_needed(wide, noise, margin=0.001, claims=1, minutes=1.0, order=order)
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
