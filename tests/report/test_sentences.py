"""Sentences: the words of judgement come from the verdicts, and the limits from the run's own counts."""

import copy
import dataclasses
from typing import Any

import pytest

from vademecum.config import ModelConfig
from vademecum.report import ReportMaterial
from vademecum.report.sentences import changes, limits, repetition_control, statements, steps_taken, why_untrained


def comparison(verdict: str, mean: float, *, groups: int = 45, detectable: float = 0.03) -> dict[str, Any]:
    difference = {"mean": mean, "low": mean - 0.02, "high": mean + 0.02, "level": 0.95, "n": 90, "groups": groups}
    return {
        "baseline": "base", "system": "tuned", "metric": "rouge1", "difference": difference, "p": 0.01, "p_holm": 0.04,
        "smallest_detectable": detectable, "verdict": verdict,
    }  # fmt: skip


def sentence(row: dict[str, Any]) -> str:
    return statements({"comparisons": [row], "config": {"evaluate": {"min_groups": 20}}})[0].text


def test_better_and_worse_say_by_how_much() -> None:
    assert sentence(comparison("better", 0.047)) == (
        "tuned scores 0.047 higher in ROUGE-1 than base (95 % interval +0.027 to +0.067, p after Holm = .0400)."
    )
    assert "0.047 lower in ROUGE-1" in sentence(comparison("worse", -0.047))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (comparison("not shown", 0.01), "a difference below 0.030 could not be detected reliably"),
        (comparison("not shown", 0.05, groups=12), "12 groups cannot carry a verdict; 20 are needed"),
        ({**comparison("not shown", 0.05), "p": 0.02, "p_holm": 0.08}, "that is not enough for a verdict"),
        ({**comparison("not shown", 0.0), "smallest_detectable": 0.0, "p": 1.0}, "could not be detected reliably"),
    ],
)
def test_not_shown_says_why_and_claims_nothing(row: dict[str, Any], reason: str) -> None:
    found = sentence(row)
    assert reason in found
    assert not any(word in found for word in ("higher", "lower", "better", "worse", "equal", "significant"))


def test_what_the_run_was_made_for_comes_first(report: dict[str, Any]) -> None:
    found = statements(report)
    assert [row.versus for row in found[:2]] == ["tuned against base", "tuned against copy"]
    assert [row.confirmatory for row in found] == [True, True, False, False, False, False]


def test_repetition_control_tells_chosen_from_configured(material: ReportMaterial) -> None:
    assert "chosen on 8 validation pairs" in repetition_control(material.decoding)
    fixed = {"decoding": {"no_repeat_ngram_size": 0}, "chosen_on": {}}
    assert repetition_control(fixed) == (
        "Repetition control: none (no_repeat_ngram_size = 0), as configured, the same for every system."
    )


@pytest.mark.parametrize(
    ("ended_by", "words"), [("epochs", "8 epochs"), ("budget", "10 minutes"), ("max_steps", "max_steps")]
)
def test_steps_say_what_ended_them(material: ReportMaterial, ended_by: str, words: str) -> None:
    other = dataclasses.replace(material, plan={**material.plan, "ended_by": ended_by})
    assert words in steps_taken(other, 207)
    assert steps_taken(other, 150).startswith("150; planned were 207 (")


def test_limits_follow_from_the_run(report: dict[str, Any], material: ReportMaterial) -> None:
    told = " ".join(limits(report, material))
    assert "not medical advice" in told and "one seed (7)" in told and "9 train answers lost the end" in told
    assert "random" not in told and "nf4" not in told
    leaky = copy.deepcopy(report)
    leaky["split"]["strategy"] = "random"
    leaky["corpus"]["missing_fields"] = ["qtype"]
    config = material.config.model_copy(update={"model": ModelConfig(quantization="nf4")})
    told = " ".join(limits(leaky, dataclasses.replace(material, config=config)))
    assert "The split is random" in told and "no question types" in told and "nf4" in told


def test_a_training_that_failed_is_called_what_it_is() -> None:
    found = {"status": "diverged", "optimizer_steps": 2, "remark": "the loss of step 3 is nan", "events": []}
    assert why_untrained(found).startswith("Training diverged after 2 optimizer steps: the loss of step 3 is nan.")
    found = {**found, "status": "unchanged", "remark": "the adapter's updates are all zero"}
    assert "changed nothing: the adapter's updates are all zero" in why_untrained(found)
    assert (
        why_untrained({**found, "status": "completed"}) == why_untrained(None) == changes(None) == changes(found) == ""
    )
