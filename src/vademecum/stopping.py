"""Asking work to stop at the next place where nothing is lost."""

import time
from signal import Signals

from vademecum.errors import StoppedError


class Stop:
    """Whether the work was asked to stop. Whoever wants it to stop holds the same object as those who do the work.

    The work polls `check` where it can stop without loss; nothing is interrupted.
    """

    def __init__(self, after_minutes: float | None = None) -> None:
        self._minutes = after_minutes
        self._began = time.monotonic()
        self._signal: Signals | None = None

    def ask(self, signal: Signals) -> None:
        """Stop because of a signal; safe in a signal handler."""
        self._signal = signal

    @property
    def asked(self) -> str | None:
        """Why to stop; None means go on."""
        if self._signal is not None:
            return self._signal.name
        if self._minutes is not None and time.monotonic() - self._began >= 60 * self._minutes:
            return f"the {self._minutes:g} minutes of this sitting are over"
        return None

    def check(self) -> None:
        """Go on, or stop here.

        Raises:
            StoppedError: the work was asked to stop.
        """
        if reason := self.asked:
            raise StoppedError(
                f"stopped before the work was finished ({reason}); what is done is kept",
                hint="give the same command again to go on",
                signal=self._signal,
            )
