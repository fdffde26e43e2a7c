"""Whatever goes wrong ends with words on standard error and the right exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.outcome import Outcome, Vade

from vademecum.runs import Run

USAGE = [("nosuch",), ("run",), ("audit", "demo", "--examples", "-1"), ("--nosuch",), ("compare", "a")]


@pytest.mark.parametrize("arguments", USAGE, ids=" ".join)
def test_a_command_that_does_not_exist_is_answered_with_the_usage(arguments: tuple[str, ...], vade: Vade) -> None:
    outcome = vade(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert "Usage: " in outcome.err
    assert "Error: " in outcome.err


BAD: list[tuple[str, str, str]] = [
    ("run nosuch", "no preset and no file is called 'nosuch'", "presets are cpu, demo, fsdp-4x12gb, paper, qlora"),
    ("run demo --set train.learning_rte=1", "did you mean train.learning_rate?", "docs/configuration.md"),
    ("run demo --set train.learning_rate=fast", "train.learning_rate: Input should be a valid number", "correct the"),
    ("run demo --set train", "--set 'train' has no '='", "section.key=value"),
    ("run broken.toml", "broken.toml is malformed: ", "docs/configuration.md"),
    ("run latin.toml", "latin.toml cannot be read", "UTF-8"),
    ("run folder", "folder cannot be read", "UTF-8 TOML file"),
    ("run good.toml --set corpus.source=gone.csv", "gone.csv", ""),
    ("run good.toml --set corpus.source=short.csv", "no column for 'answer'; it has 'question',", "columns.answer"),
    ("run good.toml --set corpus.source=ragged.csv", "ragged.csv, line 3: found 1 fields", "quote fields"),
    ("run good.toml --set corpus.source=empty.csv", "empty.csv is an empty corpus", "give the path of"),
    ("run good.toml --set corpus.columns.anser=reply", "'anser', which is not a field", "fields are question, "),
    ("run good.toml --until trian", "this run has no stage 'trian'", "prepare, plan, train"),
    ("run good.toml --force scores", "this run has no stage 'scores'", "prepare, plan, train"),
    ("run good.toml --out good.toml/run", "the run directory good.toml/run cannot be made", "--out"),
    ("run good.toml --set corpus.source=~nobody-here/x.csv", "no corpus '~nobody-here/x.csv'", "Check the path"),
    ("run good.toml --set generate.systems=[]", "generate.systems: Tuple should have at least 1 item", "correct the"),
    ("run good.toml --out model", "model holds a config.json that no run has written", "--out"),
    ("audit good.toml --set model.name=./gone", "model.name = './gone': there is no such directory", "smollm2-135m"),
    ("audit folder", "folder cannot be read", "UTF-8 TOML file"),
    ("init gone.csv", "there is no file or folder at 'gone.csv'", "CSV"),
    ("init short.csv", "short.csv has no column for 'answer'", "corpus.columns.answer"),
    ("init short.csv --out good.toml", "good.toml exists already", "--out"),
    ("report gone", "gone is not a run: it has no config.json", "`vade run`"),
    ("compare gone folder", "gone is not a run", "`vade run`"),
]  # fmt: skip


@pytest.fixture
def desk(tmp_path: Path, table: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with good and bad files."""
    good = f"[corpus]\nsource = {json.dumps(str(table))}\n[model]\nname = {json.dumps(str(tiny_checkpoint))}\n"
    files = {
        "good.toml": good.encode(),
        "broken.toml": b"[train\nmax_length = 5\n",
        "latin.toml": "# Fièvre".encode("latin-1"),
        "short.csv": b"question,reply\nWhat?,That.\n",
        "ragged.csv": b"question,answer\nWhat?,That.\nWho?\n",
        "empty.csv": b"",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("command", "error", "hint"), BAD, ids=[row[0] for row in BAD])
def test_bad_input_ends_with_words_and_exit_code_2(command: str, error: str, hint: str, desk: Path, vade: Vade) -> None:
    outcome = vade("--offline", *command.split())
    assert (outcome.code, outcome.out) == (2, "")
    shown = outcome.err[outcome.err.index("error: ") :]
    told, _, advice = shown.partition("\nhint: ")
    assert error in told
    assert hint in advice
    assert advice.strip()
    assert "Traceback" not in outcome.err
    assert (desk / "good.toml").read_bytes().startswith(b"[corpus]")


def test_traceback_shows_where_an_error_came_from(config: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vademecum", "--traceback", "run", "https://me:hunter2@example.org/nosuch"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2  # the same as without
    assert "Traceback" in done.stderr
    assert "error: no preset and no file is called" in done.stderr
    assert "hunter2" not in done.stderr


def test_rows_that_are_all_dropped_are_told_by_the_audit(desk: Path, vade: Vade) -> None:
    outcome = vade("run", "good.toml", "--set", "train.overlong=drop", "--set", "train.max_length=20")
    assert outcome.code == 1
    assert "error: none of 96 pairs became a row to train on, 96 were dropped" in outcome.err


def test_a_corpus_that_is_gone_is_not_called_changed(finished: Path, config: Path, table: Path, vade: Vade) -> None:
    aside = table.rename(table.with_suffix(".aside"))
    try:
        outcome = vade("--offline", "run", config, "--out", finished)
    finally:
        aside.rename(table)
    assert outcome.code == 2
    assert f"error: There is no corpus '{table}'" in outcome.err


def test_finished_training_is_refused_with_exit_code_1(finished: Path, config: Path, vade: Vade) -> None:
    adapter = (finished / "adapter" / "adapter_model.safetensors").read_bytes()
    outcome = vade("run", config, "--out", finished, "--set", "train.learning_rate=0.5")
    assert (outcome.code, outcome.out) == (1, "")
    assert "error: config.train changed since plan was finished, and train, " in outcome.err
    assert "hint: give --force train " in outcome.err
    assert (finished / "adapter" / "adapter_model.safetensors").read_bytes() == adapter


def test_a_diverged_training_shows_the_verdict_and_ends_with_exit_code_1(
    config: Path, tmp_path: Path, vade: Vade
) -> None:
    settings = ["--set", "train.learning_rate=1e30", "--set", 'generate.systems=["copy", "tuned"]']
    outcome = vade("run", config, "--out", tmp_path, *settings)
    assert outcome.code == 1
    assert "Training diverged after" in outcome.words
    assert f"Report: {tmp_path / 'report.html'}" in outcome.out
    assert "error: training diverged after" in outcome.err
    assert "hint: lower train.learning_rate" in outcome.err
    again = vade("--json", "run", config, "--out", tmp_path, *settings)
    assert again.code == 1
    assert again.json["training"]["status"] == "diverged"


def test_a_directory_in_use_is_refused_with_exit_code_1(finished: Path, config: Path, vade: Vade) -> None:
    with Run.open(finished).lock():
        outcome = vade("run", config, "--out", finished)
    assert outcome.code == 1
    assert f"is in use by process {os.getpid()}" in outcome.err


def test_a_damaged_artifact_is_named_with_exit_code_1(finished: Path, vade: Vade) -> None:
    scores = finished / "scores" / "tuned.jsonl"
    scores.write_text(scores.read_text(encoding="utf-8") + "{\n", encoding="utf-8")
    outcome = vade("report", finished)
    assert outcome.code == 1
    assert "tuned.jsonl, line 13 is missing or damaged" in outcome.err


def test_an_unwritable_place_is_an_error_in_words(desk: Path, table: Path, vade: Vade) -> None:
    outcome = vade("init", table, "--out", "good.toml/mine.toml")
    assert outcome.code == 1
    assert "error: " in outcome.err
    assert "hint: " in outcome.err


def test_an_interrupted_command_says_how_to_go_on(vade: Vade, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vademecum.config.load_config", interrupted)
    assert vade("run", "demo") == Outcome(130, "", "stopped; give the same command again to go on\n")
