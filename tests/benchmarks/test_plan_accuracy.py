"""How predictions are judged, and which cases are measured; `measure` itself is only run by slow tests."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from benchmarks.plan_accuracy import FITTED, JUDGED, Case, is_quick, judge, time_errors

from benchmarks import plan_accuracy

GB = 1e9


def row(predicted: float, measured: float) -> dict[str, Any]:
    return {
        "predicted_bytes": predicted * GB,
        "measured_bytes": measured * GB,
        "predicted_seconds": 11.0,
        "measured_seconds": 10.0,
    }


@pytest.mark.parametrize(
    ("predicted", "fits", "refusals"),
    [
        (1.0, 0, 0),
        (1.04, 0, 0),  # with the margin 1.092: 1.1 is taken
        (1.05, 0, 1),  # 1.1025: 1.1 is refused, and the case would have kept it with more than the margin to spare
        (1.2, 0, 2),
        (0.96, 0, 0),  # 1.008: 1.0 is refused, within the margin
        (0.94, 1, 0),  # 0.987: 0.99 is taken, and exceeded
        (0.85, 3, 0),
        (0.5, 5, 0),
    ],
)
def test_false_fits_and_false_refusals_are_beyond_the_margin(predicted: float, fits: int, refusals: int) -> None:
    found = judge([row(predicted, 1.0)])
    assert found["plan.false_fits"]["value"] == fits
    assert found["plan.false_refusals"]["value"] == refusals
    assert found["plan.false_fits"]["n"] == found["plan.false_refusals"]["n"] == 8


def test_errors_count_without_their_sign() -> None:
    found = judge([row(0.9, 1.0), row(1.05, 1.0)])
    assert found["plan.memory_error_p95"]["low"] == pytest.approx(0.05)
    assert found["plan.memory_error_p95"]["high"] == pytest.approx(0.1)
    assert found["plan.step_time_error"]["value"] == pytest.approx(0.1)


def test_a_quick_run_has_every_kind_of_weights_and_emulates_no_number_format() -> None:
    quick = [case for case in JUDGED if is_quick(case)]
    assert {case.quantization for case in quick} == {"none", "int8", "nf4"}
    assert {case.dtype for case in quick} == {"float32"}
    assert 4 <= len(quick) <= 6


def test_nothing_is_both_fitted_and_judged() -> None:
    assert not {case.name for case in FITTED} & {case.name for case in JUDGED}
    assert len(JUDGED) == len({case.name for case in JUDGED}) >= 24


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cases that were measured; each takes what is predicted, and a tenth more."""
    found: list[str] = []

    def measure_cases(cases: Sequence[Case], steps: int) -> Any:
        for case in cases:
            found.append(case.name)
            yield case, {**row(1.0, 1.1), "predicted.activations_bytes": 0.5 * GB, "steps": steps}

    monkeypatch.setattr(plan_accuracy, "measure_cases", measure_cases)
    return found


def call(monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", ["plan_accuracy", *options])
    plan_accuracy.main()


def test_one_case_anew_leaves_the_others(measured: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, one, other = tmp_path / "result.json", JUDGED[3].name, JUDGED[0].name
    call(monkeypatch, "--only", one, "--out", str(out))
    call(monkeypatch, "--only", other, "--out", str(out))
    assert measured == [one, other]
    told = json.loads(out.read_text(encoding="utf-8"))
    assert [each["case"] for each in told["settings"]["all"]["cases"]] == [other, one]
    assert told["figures"]["plan.memory_error_p95"]["n"] == 2


def test_cases_of_other_versions_are_not_mixed_in(
    measured: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "result.json"
    call(monkeypatch, "--only", JUDGED[0].name, "--out", str(out))
    told = json.loads(out.read_text(encoding="utf-8"))
    out.write_text(json.dumps({**told, "versions": {"torch": "0.1"}}), encoding="utf-8")
    before = out.read_bytes()
    with pytest.raises(SystemExit, match="other versions"):
        call(monkeypatch, "--only", JUDGED[1].name, "--out", str(out))
    assert measured == [JUDGED[0].name]
    assert out.read_bytes() == before


def test_cases_of_another_device_are_not_mixed_in(
    measured: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "result.json"
    call(monkeypatch, "--only", JUDGED[0].name, "--device", "cpu", "--out", str(out))
    with pytest.raises(SystemExit, match="another device"):
        call(monkeypatch, "--only", JUDGED[1].name, "--device", "cuda", "--out", str(out))
    assert measured == [JUDGED[0].name]


def test_cases_are_judged_anew_without_measuring(
    measured: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "result.json"
    call(monkeypatch, "--only", JUDGED[0].name, "--out", str(out))
    before = json.loads(out.read_text(encoding="utf-8"))
    assert before["figures"]["plan.false_fits"]["value"] > 0
    monkeypatch.setattr(plan_accuracy, "MEMORY_MARGIN", 0.11)  # what is predicted 10 % too low is now within it
    call(monkeypatch, "--judge-only", "--out", str(out))
    after = json.loads(out.read_text(encoding="utf-8"))
    assert measured == [JUDGED[0].name]
    assert after["settings"]["all"] == {**before["settings"]["all"], "margin": 0.11}
    assert after["figures"]["plan.false_fits"]["value"] == 0
    assert after["figures"]["plan.memory_error_p95"] == before["figures"]["plan.memory_error_p95"]


def test_no_cases_cannot_be_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="holds no cases"):
        call(monkeypatch, "--judge-only", "--out", str(tmp_path / "none.json"))


def test_only_the_heap_of_a_cpu_has_holes() -> None:
    assert not Case("width-256", 1, 512).compact
    assert Case("width-256", 1, 512, checkpointing=True).compact
    assert Case("width-256", 1, 512, device="cuda").compact


def test_a_case_that_is_not_there_is_named(
    measured: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit):
        call(monkeypatch, "--only", "width-256 1x1 float32")
    assert "no such case: width-256 1x1 float32" in capsys.readouterr().err
    assert not measured


def test_what_fitted_cases_say_of_the_constants(
    measured: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    heap, compact = Case("width-256", 4, 384).name, Case("width-256", 6, 512, checkpointing=True).name
    call(monkeypatch, "--fitted", "--only", heap, "--only", compact)
    assert measured == [heap, compact]
    # 0.5 GB counted with holes of 1.5 took 0.1 GB more; what is compact took 0.1 GB beside the libraries' 50 MB.
    assert capsys.readouterr().out.splitlines() == [f"{heap}: holes 1.80", f"{compact}: libraries 150 MB"]


def test_time_errors_are_of_whole_runs(tmp_path: Path) -> None:
    told = {"run": {"predicted_seconds": {"train": 50, "predict": 58}, "seconds": {"train": 60, "predict": 60}}}
    (tmp_path / "report.json").write_text(json.dumps(told), encoding="utf-8")
    found = time_errors([tmp_path])[tmp_path.name]
    assert found == {"predicted_minutes": 1.8, "minutes": 2.0, "error": pytest.approx(-0.1)}


@pytest.mark.slow
def test_a_case_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "result.json"
    call(monkeypatch, "--only", "width-256 1x512 float32", "--out", str(out))
    told = json.loads(out.read_text(encoding="utf-8"))["settings"]["all"]["cases"][0]
    assert told["measured_bytes"] == pytest.approx(told["predicted_bytes"], rel=0.2)
