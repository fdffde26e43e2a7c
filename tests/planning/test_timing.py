"""Predicted answering time goes with the work and against the speed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vademecum.planning import AnswerRates, answering_seconds
from vademecum.planning.timing import ANSWER_SHARE, SCORING_SECONDS_PER_ANSWER, STARTUP_SECONDS, STEP_FLOOR

RATES = AnswerRates(prompt_tokens_per_second=500, step_seconds=0.2, rows=16)
SYSTEMS = st.sampled_from(sorted(ANSWER_SHARE))
COUNTS = st.integers(1, 10**6)


@given(system=SYSTEMS, prompt_tokens=COUNTS, answers=COUNTS, new_tokens=COUNTS, more=COUNTS)
def test_more_work_takes_longer(system: str, prompt_tokens: int, answers: int, new_tokens: int, more: int) -> None:
    before = answering_seconds(system, prompt_tokens, answers, new_tokens, RATES)
    assert answering_seconds(system, prompt_tokens + more, answers, new_tokens, RATES) > before
    assert answering_seconds(system, prompt_tokens, answers + more, new_tokens, RATES) > before
    assert answering_seconds(system, prompt_tokens, answers, new_tokens + more, RATES) > before


@given(system=SYSTEMS, factor=st.floats(1.1, 100))
def test_a_faster_machine_takes_less(system: str, factor: float) -> None:
    before = answering_seconds(system, 5000, 64, 320, RATES)
    for faster in (
        {"prompt_tokens_per_second": RATES.prompt_tokens_per_second * factor},
        {"step_seconds": RATES.step_seconds / factor},
        {"rows": round(RATES.rows * factor) + 1},
    ):
        assert answering_seconds(system, 5000, 64, 320, RATES.model_copy(update=faster)) < before


def test_nothing_to_answer_costs_the_start_alone() -> None:
    assert answering_seconds("base", 0, 0, 320, RATES) == STARTUP_SECONDS


def test_one_full_chunk_in_numbers() -> None:
    for system, share in ANSWER_SHARE.items():
        step = 0.2 * (STEP_FLOOR + (1 - STEP_FLOOR) * share)
        want = STARTUP_SECONDS + 1000 / 500 + 100 * step + 16 * SCORING_SECONDS_PER_ANSWER
        assert answering_seconds(system, 1000, 16, 100, RATES) == pytest.approx(want)


def test_a_chunk_that_is_not_full_costs_the_floor_all_the_same() -> None:
    full, quarter, one_more = (answering_seconds("base", 0, answers, 100, RATES) for answers in (16, 4, 17))
    assert quarter - STARTUP_SECONDS > (full - STARTUP_SECONDS) / 4
    assert one_more - full > 100 * 0.2 * STEP_FLOOR


def test_every_system_that_the_model_answers_has_its_share() -> None:
    assert set(ANSWER_SHARE) == {"base", "few-shot", "tuned"}
