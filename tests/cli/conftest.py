"""A finished run of the command line, and a way to give it more commands."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.outcome import MARK, Outcome, Vade

from vademecum.cli import main
from vademecum.testing import tiny_pairs


@pytest.fixture
def vade(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache: Path) -> Vade:
    """Gives a command in this process, through the real entry point."""
    # `vade` sets all but the first: they are put back afterwards.
    for name, value in {
        "VADE_CACHE": str(cache),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # Typer puts its own there

    def give(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["vade", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Outcome(ended.value.code, printed.out, printed.err)

    return give


@pytest.fixture(scope="package")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="package")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of one's own, marked, with question types."""
    file = tmp_path_factory.mktemp("table") / "data.csv"
    rows = ["question,answer,focus,qtype,source"]
    for pair in tiny_pairs(120):
        rows.append(f'"{pair.question} {MARK}","{MARK} {pair.answer}","{MARK} {pair.focus}",{pair.qtype},{pair.source}')
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return file


@pytest.fixture(scope="package")
def config(tmp_path_factory: pytest.TempPathFactory, table: Path, tiny_checkpoint: Path) -> Path:
    file = tmp_path_factory.mktemp("config") / "mine.toml"
    text = f"""
        [corpus]
        source = {json.dumps(str(table))}
        [split]
        train = 0.6
        validation = 0.1
        test = 0.3
        [model]
        name = {json.dumps(str(tiny_checkpoint))}
        device = "cpu"
        dtype = "float32"
        [train]
        max_steps = 4
        max_length = 256
        max_cut_share = 1.0
        eval_pairs = 4
        [generate]
        max_new_tokens = 8
        test_pairs = 12
        no_repeat_ngram_size = 0
        [evaluate]
        resamples = 100
    """
    file.write_text(text, encoding="utf-8")
    return file


@pytest.fixture(scope="package")
def first(tmp_path_factory: pytest.TempPathFactory, config: Path, cache: Path) -> tuple[Path, Outcome]:
    """A whole run in a process of its own with --json, and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "first run"
    done = subprocess.run(
        [sys.executable, "-m", "vademecum", "--json", "run", str(config), "--out", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "VADE_CACHE": str(cache)},
    )
    return folder, Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def finished(first: tuple[Path, Outcome], tmp_path: Path) -> Path:
    """A copy of the finished run, to be changed at will."""
    return Path(shutil.copytree(first[0], tmp_path / "finished"))
