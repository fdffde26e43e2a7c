"""report.json: the names that others read, and no text of the corpus."""

import dataclasses
import json
from typing import Any

import pytest

from vademecum.config import ModelConfig
from vademecum.report import ReportMaterial, build_report
from vademecum.report.content import sitting_seconds

ESTIMATE = {"mean", "low", "high", "level", "n", "groups"}


def test_the_contract_keeps_its_names(report: dict[str, Any]) -> None:
    assert {
        "schema",
        "run",
        "corpus",
        "split",
        "supervision",
        "training",
        "systems",
        "comparisons",
        "signature",
    } <= set(report)
    assert {"pairs_in", "pairs_kept", "rules"} <= set(report["corpus"])
    assert {"strategy", "counts", "groups", "leakage"} <= set(report["split"])
    assert set(report["split"]["counts"]) == {"train", "validation", "test", "excluded"}
    assert {"question", "answer", "focus", "document", "ngram13"} <= set(report["split"]["leakage"])
    assert {"pairs", "tokens", "cut_answers", "dropped", "end_token_trained", "prompt_tokens_in_labels"} <= set(
        report["supervision"]
    )
    assert {
        "optimizer_steps", "real_tokens", "slots", "padded_fraction", "real_tokens_per_second", "seconds", "final_loss",
        "status",
    } <= set(report["training"])  # fmt: skip


def test_systems_and_comparisons_carry_estimates(report: dict[str, Any]) -> None:
    assert list(report["systems"]) == ["base", "few-shot", "copy", "tuned"]
    for system in report["systems"].values():
        assert {"n", "groups", "length_ratio", "stopped_by_length", "empty", "looping"} <= set(system)
        assert set(system["metrics"]) == {"rouge1", "rouge2", "rougeL", "rougeLsum"}
        assert all(set(found) == ESTIMATE for found in system["metrics"].values())
    for row in report["comparisons"]:
        assert {"baseline", "system", "metric", "p", "p_holm", "smallest_detectable", "verdict"} <= set(row)
        assert set(row["difference"]) == ESTIMATE


def test_it_is_json_and_holds_no_text_of_the_corpus(report: dict[str, Any], material: ReportMaterial) -> None:
    written = json.dumps(report, allow_nan=False)
    assert "zyxwv-corpus-marker" not in written
    assert "planted" not in written
    assert not any(name in written for name in material.pairs)


def test_seconds_are_summed_over_sittings(material: ReportMaterial, report: dict[str, Any]) -> None:
    assert sitting_seconds(material) == pytest.approx(1.5 * 207)
    assert report["training"]["seconds"] == pytest.approx(310.5)
    assert report["training"]["real_tokens_per_second"] == pytest.approx(198_360 / 310.5)


def test_without_clock_readings_the_summary_stands(material: ReportMaterial) -> None:
    found = build_report(dataclasses.replace(material, timing_rows=[]))["training"]
    assert (found["seconds"], found["real_tokens_per_second"]) == (220.5, 640.0)


def test_a_run_without_tuned_has_no_training(untrained_report: dict[str, Any]) -> None:
    assert untrained_report["training"] is None
    assert {row["system"] for row in untrained_report["comparisons"]} == {"copy"}


@pytest.mark.parametrize(
    ("name", "origin", "expected"),
    [
        ("/home/someone/models/tiny", "a local directory", "tiny (a local directory)"),
        ("acme/tiny", "Hugging Face hub, revision main", "acme/tiny (Hugging Face hub, revision main)"),
        (
            "smollm2-135m",
            "SmolLM2-135M-Instruct, dequantized from Q4_1",
            "SmolLM2-135M-Instruct, dequantized from Q4_1",
        ),
    ],
)
def test_the_base_model_is_called_what_it_is(material: ReportMaterial, name: str, origin: str, expected: str) -> None:
    config = material.config.model_copy(update={"model": ModelConfig(name=name)})
    assert build_report(dataclasses.replace(material, config=config, base=origin))["run"]["base"] == expected
