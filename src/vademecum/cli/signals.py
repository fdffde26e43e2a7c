"""Ctrl-C and a polite kill: the first asks the work to stop, a second one ends it as any other program's would."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vademecum.stopping import Stop

POLITE = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def listening(stop: Stop) -> Iterator[None]:
    """Turn the first signal into a question to `stop`."""
    before = {number: signal.getsignal(number) for number in POLITE}

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, _: FrameType | None) -> None:
        put_back()
        stop.ask(signal.Signals(number))

    for number in POLITE:
        signal.signal(number, ask)
    try:
        yield
    finally:
        put_back()
