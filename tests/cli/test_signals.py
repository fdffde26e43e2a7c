"""The first signal stops the work where nothing is lost and says how to go on; a second one stops at once."""

import signal
from pathlib import Path

import pytest
from tests.cli.outcome import Vade

from vademecum.cli.progress import Progress
from vademecum.runs import Run


def send_as_work_begins(numbers: list[signal.Signals], monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(_: Progress, __: str) -> None:
        for number in numbers:
            signal.raise_signal(number)  # heard at once; two kills in a row may arrive as one

    monkeypatch.setattr(Progress, "begin", begin)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_after_the_stage_in_flight(
    number: signal.Signals, code: int, config: Path, tmp_path: Path, vade: Vade, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        send_as_work_begins([number], patched)
        outcome = vade("run", config, "--out", tmp_path)
    assert (outcome.code, outcome.out) == (code, "")
    assert f"stopped before the work was finished ({number.name})" in outcome.err
    assert "hint: give the same command again" in outcome.err
    assert list(Run.open(tmp_path).entries()) == ["prepare"]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    outcome = vade("run", config, "--out", tmp_path, "--until", "plan")
    assert outcome.code == 0
    assert list(Run.open(tmp_path).entries()) == ["prepare", "plan"]


def test_a_second_signal_stops_at_once(
    config: Path, tmp_path: Path, vade: Vade, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_as_work_begins([signal.SIGINT, signal.SIGINT], monkeypatch)
    # A shell lets what it starts in the background ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert vade("run", config, "--out", tmp_path).code == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert Run(tmp_path).entries() == {}


def test_the_time_of_a_sitting_is_no_failure(config: Path, tmp_path: Path, vade: Vade) -> None:
    outcome = vade("run", config, "--out", tmp_path, "--stop-after", "0")
    assert (outcome.code, outcome.out) == (0, "")
    assert "stopped before the work was finished (the 0 minutes of this sitting are over)" in outcome.err
    outcome = vade("--json", "run", config, "--out", tmp_path, "--stop-after", "0")
    assert outcome.code == 0
    assert set(outcome.json) == {"stopped", "hint"}
