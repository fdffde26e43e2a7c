"""What a piped run says of how far it has come."""

import io

import pytest
from rich.console import Console

from vademecum.cli.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds, to be set."""
    now = [0.0]
    monkeypatch.setattr("vademecum.cli.progress.time.monotonic", lambda: now[0])
    return now


def test_the_time_left_of_slow_things_is_reckoned_from_where_the_stage_began(clock: list[float]) -> None:
    """Trials end in pairs: the second comes a moment after the first, and says nothing of the speed."""
    said = io.StringIO()
    progress = Progress(Console(file=said, width=200))
    progress.begin("trials")
    progress.progress(0, 15, "trials")
    for seconds, done in ((2880, 1), (2881, 2), (2920, 2)):
        clock[0] = seconds
        progress.progress(done, 15, "trials")
    assert said.getvalue().splitlines() == [
        "trials …",
        "  trials: 1 of 15 trials, 672.0 min left",
        "  trials: 2 of 15 trials, 316.3 min left",
    ]


def test_fast_things_have_their_rate(clock: list[float]) -> None:
    said = io.StringIO()
    progress = Progress(Console(file=said, width=200))
    progress.begin("train")
    progress.progress(100, 1000, "tokens")
    clock[0] = 30.0
    progress.progress(400, 1000, "tokens")
    assert said.getvalue().splitlines()[1:] == ["  train: 400 of 1000 tokens 10.00 tokens/s, 1.0 min left"]
