"""What benchmarks write: one file per machine, where each model keeps its own figures."""

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.results import figure, result_file, write_result

from benchmarks import results


def read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def test_a_figure_is_the_median_with_its_spread() -> None:
    assert figure([3.0, 1.0, 2.0], "ratio", 50) == {"value": 2.0, "unit": "ratio", "n": 50, "low": 1.0, "high": 3.0}


def test_a_second_model_adds_its_figures_and_a_second_run_replaces_its_own(tmp_path: Path) -> None:
    file = tmp_path / "train_speed-here.json"
    write_result(file, "smollm2-135m", {"steps": 5}, {"a": figure([1.0], "ratio", 1), "old": figure([1.0], "ratio", 1)})
    write_result(file, "tinyllama", {"steps": 2}, {"a.tinyllama": figure([2.0], "ratio", 1)}, rounds=[1])
    write_result(file, "smollm2-135m", {"steps": 6}, {"a": figure([3.0], "ratio", 1)})
    found = read(file)
    assert {name: value["value"] for name, value in found["figures"].items()} == {"a": 3.0, "a.tinyllama": 2.0}
    assert found["settings"]["smollm2-135m"]["steps"] == 6
    assert found["settings"]["tinyllama"]["rounds"] == [1]


def test_the_commits_that_measured_are_noted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "commit", lambda: "bbb")
    file = tmp_path / "result.json"
    results.write_result(file, "a", {"commits": results.commits_so_far({"commits": ["aaa", "bbb"]}, "bbb")}, {})
    results.write_result(file, "b", {}, {})
    told = json.loads(file.read_text(encoding="utf-8"))["settings"]
    assert (told["a"]["commits"], told["b"]["commits"]) == (["aaa", "bbb"], ["bbb"])


def test_figures_of_other_versions_do_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "train_speed-here.json"
    monkeypatch.setattr(results, "library_versions", lambda: {"torch": "1"})
    write_result(file, "smollm2-135m", {}, {"a": figure([1.0], "ratio", 1)})
    monkeypatch.setattr(results, "library_versions", lambda: {"torch": "2"})
    write_result(file, "tinyllama", {}, {"a.tinyllama": figure([2.0], "ratio", 1)})
    assert list(read(file)["figures"]) == ["a.tinyllama"]


def test_a_quick_run_has_a_file_of_its_own() -> None:
    assert result_file("train_speed", quick=True) != result_file("train_speed", quick=False)
