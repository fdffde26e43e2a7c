"""Tables: counts at every step, and what was predicted beside what was measured."""

from typing import Any

from vademecum.report import ReportMaterial
from vademecum.report.tables import (
    comparisons_table,
    counts_table,
    leakage_table,
    losses_table,
    slices_table,
    times_table,
    trials_table,
)


def test_counts_lead_from_the_corpus_to_the_tokens(report: dict[str, Any], material: ReportMaterial) -> None:
    rows = counts_table(report, material).rows
    assert rows[0] == ("pairs in the corpus", "372")
    assert ("· excluded", "3") in rows and ("test pairs answered", "90") in rows
    assert rows[-1] == ("tokens seen over the whole training", "198,360")


def test_time_sets_the_measured_beside_the_predicted(report: dict[str, Any]) -> None:
    rows = {row[0]: row[1:] for row in times_table(report).rows}
    assert rows["prepare and plan"][:3] == ("32 s", "32 s", "1.01")
    assert rows["train"] == ("5.3 min", "5.6 min", "1.05", "2.01 GB", "2.03 GB", "2.14 GB")
    assert rows["choose the decoding"][0] == "47 s"
    assert rows["answer and score: copy"] == ("–", "1.6 s", "–", "–", "–", "1.21 GB")
    measured = sum(report["run"]["seconds"].values())
    assert rows["in all"][1] == f"{measured / 60:.1f} min"
    assert rows["in all"][3:] == ("2.01 GB", "2.05 GB", "2.14 GB")


def test_validation_losses_begin_with_the_untrained_model_s(material: ReportMaterial) -> None:
    rows = losses_table(material.training_rows).rows
    assert rows[0] == ("0", "–", "2.437")
    assert [row[0] for row in rows[1:]] == ["52", "104", "156", "207"]


def test_leakage_counts_pairs_beside_shares(report: dict[str, Any]) -> None:
    rows = leakage_table(report["split"], []).rows
    assert rows[0][1:] == ("0.0 %", "0")
    assert rows[-1][1:] == ("2.9 %", "3")


def test_what_no_pair_has_is_not_said_to_leak_nowhere(report: dict[str, Any]) -> None:
    by_name = {row[0]: row[1] for row in leakage_table(report["split"], ["focus"]).rows}
    assert by_name["the focus"] == "not known: no pair has one"
    assert by_name["the question"].endswith(" %")


def test_every_comparison_has_its_row(report: dict[str, Any]) -> None:
    table = comparisons_table(report)
    assert len(table.rows) == len(report["comparisons"]) == 24
    assert {row[2] for row in table.rows} <= {"better", "worse", "not shown"}


def test_slices_have_a_column_for_each_system(report: dict[str, Any]) -> None:
    table = slices_table(report["slices"]["source"], list(report["systems"]))
    assert table.columns == ("source", "n", "groups", "base", "few-shot", "copy", "tuned")
    assert [row[0] for row in table.rows] == ["SampleConditions", "SampleGenetics", "SampleWellness"]


def test_a_configured_repetition_control_has_no_trials() -> None:
    assert trials_table({"chosen_on": {}}) is None
