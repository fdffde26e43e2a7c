"""An uninterrupted run to hold others against."""

from pathlib import Path

import pytest
from tests.faults.harness import TINY, Command


@pytest.fixture(scope="package")
def command(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Command:
    return Command("demo", (*TINY, f"model.name={tiny_checkpoint}"), tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="package")
def reference(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    folder = tmp_path_factory.mktemp("reference") / "run"
    code, told = command.finish(folder)
    assert code == 0, told
    return folder
