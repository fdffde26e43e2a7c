"""Killed anywhere and started again with the same command, a run ends as if nothing had happened."""

import signal
import time
from pathlib import Path

import pytest
from tests.faults.harness import Command, differences, torture


@pytest.mark.parametrize(
    "kills", [6, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])], ids="{} kills".format
)
def test_killed_anywhere_the_end_is_the_same(kills: int, command: Command, reference: Path, tmp_path: Path) -> None:
    tally = torture(command, reference, tmp_path, kills=kills, seed=kills)
    assert tally.different == {}
    assert tally.identical == kills


def test_stopped_in_training_the_end_is_the_same(command: Command, reference: Path, tmp_path: Path) -> None:
    process = command.start(tmp_path)
    assert process.stderr is not None
    while process.stderr.readline().strip() != "train …":
        pass
    log = tmp_path / "training.jsonl"
    while not log.is_file() or log.read_bytes().count(b"\n") < 2:  # the untrained model's row, and that of a step
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    told = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 143
    assert "stopped before the work was finished (SIGTERM)" in told
    assert command.finish(tmp_path)[0] == 0
    assert differences(tmp_path, reference) == []
