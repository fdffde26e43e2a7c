"""All trials are sized alike, from one plan."""

import pytest

from vademecum.errors import ConfigError
from vademecum.planning import Plan
from vademecum.study.declaration import Factor, StudyConfig
from vademecum.study.design import Design, lay_out_design
from vademecum.study.execution import fitting_at_once
from vademecum.study.sizing import FEWEST_PAIRS, STARTUP_SECONDS, size_study

TOKENS_PER_SECOND, TOKENS_PER_PAIR = 200.0, 100
STEPS = 750
"""1,000 train pairs, three epochs, four to a step."""


def plan() -> Plan:
    """Of the preset paper's shape: 1 x 4 examples per step."""
    tokens = STEPS * 4 * TOKENS_PER_PAIR
    return Plan.model_validate(
        {
            "device": "cpu", "dtype": "float32", "dtype_reason": "", "base": "a base", "base_digest": "0",
            "optimizer_steps": STEPS, "full_steps": STEPS, "ended_by": "epochs", "warmup_steps": 100,
            "eval_steps": 1, "save_steps": 1, "train_pairs": 1000,
            "answer_rows": 24, "candidates": [], "micro_batch_tokens": 512,
            "settings": {
                "quantization": "none", "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4,
                "gradient_checkpointing": True, "compact": False,
            },
            "real_tokens": tokens,
            "memory": {
                "weights_bytes": 1, "adapter_bytes": 1, "activations_bytes": 1, "answering_weights_bytes": 1,
                "cache_bytes": 1, "reading_bytes": 1,
            },
            "process_bytes": 1, "memory_limit_bytes": 100, "disk_bytes": 1, "measured": True,
            "rates": {
                "train_tokens_per_second": TOKENS_PER_SECOND, "evaluation_tokens_per_second": 300.0, "answers": {},
                "peak_memory_bytes": 10,
            },
            "predicted_seconds": {
                "prepare and plan": 60.0, "train": tokens / TOKENS_PER_SECOND + 40, "predict/base": 120.0,
                "predict/tuned": 120.0,
            },
        }
    )  # fmt: skip


def design(**more: object) -> Design:
    declared = {
        "baseline": "paper",
        "set": ("split.strategy=grouped",),
        "factors": (
            {"name": "warmup", "levels": ("train.warmup_steps=0", "train.warmup_steps=200")},
            {"name": "epochs", "levels": ("train.num_train_epochs=1",)},
        ),
        "baseline_seeds": (0, 1),
    }
    return lay_out_design(StudyConfig.model_validate(declared | more))


def test_without_a_budget_all_pairs_are_trained_on() -> None:
    sizing = size_study(design(), plan())
    assert sizing.train_pairs is None
    assert sizing.optimizer_steps == {"baseline": STEPS, "warmup=0": STEPS, "warmup=200": STEPS, "epochs=1": 250}
    assert sizing.warmup_steps == {}  # 200 of 750 and 100 of 250 steps end


def test_the_subset_is_the_largest_that_the_budget_holds() -> None:
    laid_out = design(minutes=100, reference_steps=1000)
    sizing = size_study(laid_out, plan())
    assert sizing.train_pairs is not None
    assert sizing.total_minutes <= 95
    # One pair more, in five trials of 3 + 3 + 3 + 3 + 1 epochs, would be too much.
    assert sizing.total_minutes + 13 * TOKENS_PER_PAIR / TOKENS_PER_SECOND / 60 + 5 * 4 * 0.5 / 60 > 95
    alone = STARTUP_SECONDS + 40 + 120
    steps = sizing.optimizer_steps["epochs=1"]
    assert sizing.minutes["epochs=1-seed0"] == pytest.approx((alone + steps * 4 * 0.5) / 60)


def test_every_trial_is_given_the_same_subset_and_shapes() -> None:
    laid_out = design(minutes=100, reference_steps=1000)
    sizing = size_study(laid_out, plan())
    configs = [trial.config for trial in laid_out.trials(sizing.overrides, sizing.warmup_steps)]
    assert {config.train.max_pairs for config in configs} == {sizing.train_pairs}
    assert {config.generate.batch_size for config in configs} == {24}
    assert {config.budget.minutes for config in configs} == {None}


def test_warmups_that_would_not_end_keep_their_proportion() -> None:
    laid_out = design(set=("split.strategy=grouped", "train.max_pairs=120"), reference_steps=1000)
    sizing = size_study(laid_out, plan())
    assert sizing.optimizer_steps["baseline"] == 90  # fewer than its 100 steps of warmup
    assert sizing.warmup_steps == {"baseline": 9, "warmup=0": 0, "warmup=200": 18, "epochs=1": 3}
    with pytest.raises(ConfigError, match="would not end") as caught:
        size_study(design(set=("train.max_pairs=120",)), plan())
    assert "reference_steps" in caught.value.hint


def test_a_budget_that_holds_nothing_says_what_would() -> None:
    with pytest.raises(ConfigError, match=f"no {FEWEST_PAIRS} train pairs") as caught:
        size_study(design(minutes=10, reference_steps=1000), plan())
    enough = int(caught.value.hint.split("set minutes to ")[1].split()[0])
    sizing = size_study(design(minutes=enough, reference_steps=1000), plan())
    assert sizing.train_pairs is not None
    assert sizing.train_pairs >= FEWEST_PAIRS


def test_accelerators_side_by_side_hold_more() -> None:
    one, four = (size_study(design(minutes=30, reference_steps=1000), plan(), lanes).train_pairs for lanes in (1, 4))
    assert one is not None
    assert four is not None
    assert four > 3 * one


def test_a_level_has_the_last_word_over_what_sizing_chose() -> None:
    levels = ("train.max_pairs=50", "train.examples_per_step=4", "train.gradient_accumulation_steps=2")
    laid_out = lay_out_design(
        StudyConfig.model_validate(
            {
                "baseline": "cpu",
                "set": ("budget.minutes=none", "generate.no_repeat_ngram_size=0", "train.max_pairs=400"),
                "factors": ({"name": "x", "levels": levels},),
            }
        )
    )
    sizing = size_study(laid_out, plan())
    trials = {trial.variant: trial.config for trial in laid_out.trials(sizing.overrides, sizing.warmup_steps)}
    assert trials["x=50"].train.max_pairs == 50
    assert trials["x=4"].train.batch_shape == (4, 1)
    assert trials["x=2"].train.batch_shape == (4, 2)  # of the preset's eight examples
    assert {(config.model.device, config.model.dtype) for config in trials.values()} == {("cpu", "float32")}


def test_a_variant_that_is_added_later_is_sized_like_the_others() -> None:
    first = design(set=("split.strategy=grouped", "train.max_pairs=120"), reference_steps=1000)
    before = size_study(first, plan())
    more = (*first.study.factors, Factor(name="rank", levels=("lora.r=4",)))
    later = lay_out_design(first.study.model_copy(update={"factors": more}))
    after = size_study(later, plan(), before=before)
    assert after.warmup_steps == {**before.warmup_steps, "rank=4": 9}
    assert (after.train_pairs, after.overrides) == (before.train_pairs, before.overrides)


def test_a_subset_that_was_chosen_by_hand_must_fit_the_minutes_too() -> None:
    by_hand = ("split.strategy=grouped", "train.max_pairs=900")
    with pytest.raises(ConfigError, match="with 900 train pairs per trial the study takes") as caught:
        size_study(design(set=by_hand, minutes=60), plan())
    assert "train.max_pairs" in caught.value.hint
    assert size_study(design(set=by_hand, minutes=6000), plan()).train_pairs == 900


def test_no_more_pairs_are_counted_than_there_are() -> None:
    many = design(set=("split.strategy=grouped", "train.max_pairs=20000"))
    assert size_study(many, plan()).optimizer_steps["baseline"] == STEPS


def test_rows_that_hold_several_pairs_are_counted_as_pairs() -> None:
    """Packed: a pass over 1,000 pairs is 250 rows, four to a step."""
    rows = plan().model_copy(update={"full_steps": 188, "optimizer_steps": 188})
    tokens = TOKENS_PER_PAIR * 3 * 1000
    packed = rows.model_copy(update={"real_tokens": tokens})
    sizing = size_study(design(minutes=100, reference_steps=1000), packed)
    assert sizing.train_pairs is not None
    whole = size_study(design(minutes=100, reference_steps=1000), plan())
    assert sizing.train_pairs == pytest.approx(whole.train_pairs, rel=0.02)
    assert sizing.optimizer_steps["baseline"] == pytest.approx(whole.optimizer_steps["baseline"] / 4, rel=0.05)


@pytest.mark.parametrize(
    ("level", "setting"),
    [
        ("model.name=another", "model.name"),
        ("train.max_length=64", "train.max_length"),
        ("train.batching=grouped", "train.batching"),
        ("train.gradient_checkpointing=false", "train.gradient_checkpointing"),
        ("generate.max_new_tokens=600", "generate.max_new_tokens"),
    ],
)
def test_minutes_are_not_promised_of_what_has_another_speed(level: str, setting: str) -> None:
    factors = ({"name": "x", "levels": (level,)},)
    with pytest.raises(
        ConfigError, match=f"minutes = 100 cannot be kept: .* x=.* has another, by {setting}$"
    ) as caught:
        size_study(design(factors=factors, minutes=100, reference_steps=1000), plan())
    assert "train.max_pairs" in caught.value.hint
    sizing = size_study(design(factors=factors), plan())
    assert list(sizing.other_speed.values()) == [(setting,)]
    assert f"({setting}): at the baseline's speed" in sizing.caveat


def test_what_changes_the_speed_little_is_sized_with_the_baseline() -> None:
    levels = ("lora.r=4", "train.optim=adafactor", "train.learning_rate=1e-4", "train.gradient_accumulation_steps=2")
    sizing = size_study(design(factors=({"name": "x", "levels": levels},), minutes=100, reference_steps=1000), plan())
    assert (sizing.other_speed, sizing.caveat) == ({}, "")


def test_given_steps_are_not_charged_by_the_pair() -> None:
    """A variant of 100 steps takes what they take, whatever the subset; what it leaves, the others have."""
    short = ({"name": "steps", "levels": ("train.max_steps=100",)},)
    sizing = size_study(design(factors=short, minutes=60, reference_steps=1000), plan())
    assert sizing.train_pairs is not None
    assert 56 < sizing.total_minutes <= 57  # no minute is lost to pairs that cost nothing
    alone = STARTUP_SECONDS + 40 + 120
    assert sizing.minutes["steps=100-seed0"] == pytest.approx((alone + 100 * 4 * 0.5) / 60)


def test_where_all_steps_are_given_the_pairs_are_all_there_are() -> None:
    all_given = ("split.strategy=grouped", "train.max_steps=150")
    sizing = size_study(design(set=all_given, minutes=100, reference_steps=1000), plan())
    assert (sizing.train_pairs, set(sizing.optimizer_steps.values())) == (None, {150})
    with pytest.raises(ConfigError, match="the study takes"):
        size_study(design(set=all_given, minutes=30, reference_steps=1000), plan())


def test_more_machines_take_less_and_never_less_than_the_longest_trial() -> None:
    sizing = size_study(design(), plan())
    assert sizing.minutes_on(1) == pytest.approx(sizing.shared_minutes + sum(sizing.minutes.values()))
    assert sizing.minutes_on(1) > sizing.minutes_on(2) > sizing.minutes_on(4)
    assert sizing.minutes_on(64) == pytest.approx(sizing.shared_minutes + max(sizing.minutes.values()))
    assert size_study(design(), plan(), lanes=2).minutes_on(1) == pytest.approx(sizing.minutes_on(2))


@pytest.mark.parametrize(
    ("cores", "limit_bytes", "device", "expected"),
    [(8, 100, "cpu", 2), (1, 100, "cpu", 1), (8, 7, "cpu", 1), (8, 1, "cpu", 1), (8, 100, "cuda", 1)],
)
def test_two_trials_share_a_cpu_where_each_has_a_core_and_its_predicted_memory(
    monkeypatch: pytest.MonkeyPatch, cores: int, limit_bytes: int, device: str, expected: int
) -> None:
    monkeypatch.setattr("vademecum.study.execution.usable_cores", lambda: cores)
    changed = plan().model_copy(update={"memory_limit_bytes": limit_bytes, "device": device})
    assert max(changed.predicted_peak_bytes.values()) == 4
    assert fitting_at_once(changed) == expected
