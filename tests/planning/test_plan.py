"""How many steps a run gets: what was asked for, or what the budget leaves after answering."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vademecum.config import BudgetConfig, TrainConfig, load_config
from vademecum.errors import ConfigError, OutOfMemoryError
from vademecum.planning import (
    AnswerRates,
    Quantization,
    Rates,
    Settings,
    Workload,
    apply_choice,
    check_memory,
    choose_steps,
)
from vademecum.planning.plan import MIN_STEPS, RESERVE_SHARE
from vademecum.planning.timing import STARTUP_SECONDS

ANSWERS = AnswerRates(prompt_tokens_per_second=500, step_seconds=0.1, rows=16)


def rates(tokens_per_second: float = 100) -> Rates:
    return Rates(
        train_tokens_per_second=tokens_per_second,
        evaluation_tokens_per_second=2 * tokens_per_second,
        answers={"plain": ANSWERS},
        peak_memory_bytes=1,
    )


def workload(full_steps: int = 300, answering: float = 300, spent: float = 60) -> Workload:
    """One step takes ten seconds at 100 tokens a second, one validation loss two."""
    return Workload(
        full_steps=full_steps,
        tokens_per_step=1000,
        validation_tokens=400,
        answering={"predict/base": answering / 2, "predict/tuned": answering / 2},
        spent_seconds=spent,
    )


def test_without_a_budget_all_epochs_are_trained() -> None:
    steps = choose_steps(workload(), rates(), TrainConfig(), BudgetConfig())
    assert (steps.optimizer_steps, steps.ended_by) == (300, "epochs")
    assert (steps.warmup_steps, steps.eval_steps, steps.save_steps) == (9, 75, 30)
    assert steps.train_seconds == STARTUP_SECONDS + 300 * 10 + 5 * 2


def test_max_steps_stands_for_the_epochs() -> None:
    for asked in (7, 1000):
        steps = choose_steps(workload(), rates(), TrainConfig(max_steps=asked), BudgetConfig())
        assert (steps.optimizer_steps, steps.ended_by) == (asked, "max_steps")


def test_a_wide_budget_changes_nothing() -> None:
    free = choose_steps(workload(), rates(), TrainConfig(), BudgetConfig())
    assert choose_steps(workload(), rates(), TrainConfig(), BudgetConfig(minutes=600)) == free


def test_a_narrow_budget_cuts_training_and_never_answering() -> None:
    steps = choose_steps(workload(), rates(), TrainConfig(), BudgetConfig(minutes=30))
    fixed = 60 + 300 + STARTUP_SECONDS + 5 * 2
    assert steps.ended_by == "budget"
    assert steps.optimizer_steps == int((30 * 60 * (1 - RESERVE_SHARE) - fixed) / 10)
    asked = choose_steps(workload(), rates(), TrainConfig(max_steps=1000), BudgetConfig(minutes=30))
    assert (asked.optimizer_steps, asked.ended_by) == (steps.optimizer_steps, "budget")


def test_the_schedule_is_what_was_set_when_it_was_set() -> None:
    train = TrainConfig(warmup_steps=0, eval_steps=40, save_steps=11)
    steps = choose_steps(workload(), rates(), train, BudgetConfig(minutes=30))
    assert (steps.warmup_steps, steps.eval_steps, steps.save_steps) == (0, 40, 11)


def test_the_untrained_model_s_validation_and_the_last_one_are_counted() -> None:
    """35 steps with a validation loss after every tenth: 0, 10, 20, 30 and 35."""
    train = TrainConfig(eval_steps=10, max_steps=35)
    steps = choose_steps(workload(), rates(), train, BudgetConfig())
    assert steps.train_seconds == STARTUP_SECONDS + 35 * 10 + 5 * 2
    # Exactly as much time as that takes is enough; a second less is not.
    needed = (60 + 300 + steps.train_seconds) / (1 - RESERVE_SHARE)
    for seconds, ended_by in ((needed + 0.1, "max_steps"), (needed - 1, "budget")):
        assert choose_steps(workload(), rates(), train, BudgetConfig(minutes=seconds / 60)).ended_by == ended_by


@given(
    minutes=st.floats(1, 600),
    full_steps=st.integers(1, 5000),
    tokens_per_second=st.floats(1, 1e5),
    answering=st.floats(0, 1e4),
    spent=st.floats(0, 1e3),
)
def test_what_is_planned_fits_the_budget_or_the_error_says_what_would(
    minutes: float, full_steps: int, tokens_per_second: float, answering: float, spent: float
) -> None:
    work, measured = workload(full_steps, answering, spent), rates(tokens_per_second)
    try:
        steps = choose_steps(work, measured, TrainConfig(), BudgetConfig(minutes=minutes))
    except ConfigError as error:
        found = re.search(r"set budget\.minutes to (\d+) or more", error.hint)
        assert found
        steps = choose_steps(work, measured, TrainConfig(), BudgetConfig(minutes=int(found[1])))
        assert steps.optimizer_steps >= min(MIN_STEPS, full_steps)
        return
    assert min(MIN_STEPS, full_steps) <= steps.optimizer_steps <= full_steps
    assert 0 <= steps.warmup_steps <= steps.optimizer_steps
    assert 1 <= steps.eval_steps <= steps.optimizer_steps
    assert 1 <= steps.save_steps <= steps.optimizer_steps
    assert spent + answering + steps.train_seconds <= minutes * 60


def test_a_budget_that_answering_eats_is_refused_with_the_numbers() -> None:
    with pytest.raises(ConfigError, match=r"budget\.minutes = 5 leaves no time to train") as caught:
        choose_steps(workload(), rates(), TrainConfig(), BudgetConfig(minutes=5))
    fixed = 60 + 300 + STARTUP_SECONDS + 5 * 2
    enough = math.ceil((fixed + MIN_STEPS * 10) / (1 - RESERVE_SHARE) / 60)
    assert f"{fixed / 60:.1f} minutes" in caught.value.message
    assert "one optimizer step 10.0 seconds" in caught.value.message
    assert f"budget.minutes to {enough} or more" in caught.value.hint


def test_a_run_that_trains_nothing_is_planned_without_steps() -> None:
    for budget in (BudgetConfig(), BudgetConfig(minutes=1)):
        steps = choose_steps(workload(), rates(0), TrainConfig(), budget)
        assert (steps.optimizer_steps, steps.train_seconds) == (0, 0)


def test_more_memory_than_the_budget_is_refused_with_what_would_take_less() -> None:
    probed = rates().model_copy(update={"peak_memory_bytes": 4_100_000_000})
    check_memory(probed, 4_200_000_000)
    with pytest.raises(OutOfMemoryError, match=r"4\.10 GB, more than the limit of 4\.00 GB") as caught:
        check_memory(probed, 4_000_000_000)
    assert "per_device_train_batch_size" in caught.value.hint
    assert caught.value.work == "answering"
    with pytest.raises(OutOfMemoryError) as caught:
        check_memory(probed.model_copy(update={"training_peak_bytes": 4_050_000_000}), 4_000_000_000)
    assert caught.value.work == "training"


def test_the_plan_fills_in_what_was_left_open_and_nothing_else() -> None:
    chosen = Settings(
        quantization="nf4", per_device_train_batch_size=2, gradient_accumulation_steps=4, gradient_checkpointing=True,
        compact=True,
    )  # fmt: skip
    open_config = load_config("demo", ["model.quantization=auto", "generate.batch_size=none"])
    applied = apply_choice(open_config, chosen, answer_rows=16)
    assert (applied.model.quantization, applied.generate.batch_size) == ("nf4", 16)
    assert applied.train.batch_shape == (2, 4)
    fewer = load_config("demo", ["generate.batch_size=4"])  # set after answering had run out of memory
    assert apply_choice(fewer, chosen, answer_rows=16).generate.batch_size == 4


def test_answers_are_written_with_the_weights_that_fit_unless_others_are_asked_for() -> None:
    chosen = Settings(
        quantization="nf4", per_device_train_batch_size=2, gradient_accumulation_steps=4, gradient_checkpointing=True,
        compact=True,
    )  # fmt: skip
    cases: list[tuple[str, Quantization, str]] = [
        ("auto", "nf4", "nf4"), ("auto", "none", "none"), ("none", "nf4", "none")
    ]  # fmt: skip
    for asked, planned, found in cases:
        config = load_config("demo", [f"generate.quantization={asked}"])
        assert apply_choice(config, chosen, 16, planned).generate.quantization == found


def test_configured_warmup_shrinks_with_the_steps_that_the_budget_cuts() -> None:
    train = TrainConfig(warmup_steps=100)
    assert choose_steps(workload(), rates(), train, BudgetConfig()).warmup_steps == 100
    cut = choose_steps(workload(), rates(), train, BudgetConfig(minutes=30))
    assert cut.ended_by == "budget"
    assert cut.warmup_steps == round(100 * cut.optimizer_steps / 300) < 100
