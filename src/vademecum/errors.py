"""The errors that Vademecum raises for its users to read.

```
VademecumError            message: what failed, what was found; hint: what to do
├── InputError            the user's input is wrong; `vade` exits with 2
│   ├── ConfigError       a configuration file or a --set override
│   ├── CorpusError       a corpus file: names the file and the line
│   └── SourceError       a model or corpus that cannot be found or fetched
└── RunError              the input was fine and the run failed; `vade` exits with 1
    ├── AuditError        an audit crossed its threshold (leakage, supervision)
    ├── OutOfMemoryError  more memory is needed than there is, or than the budget allows
    ├── DivergedError     a loss, gradient or weight that is not finite
    ├── UntrainedError    all is done but for the tuned system, because training gave no adapter that is worth scoring
    ├── StaleError        finished work would be overwritten; asks for --force
    └── StoppedError      the work was asked to stop, and did; `vade` exits with 128 + the signal, or 0 for --stop-after
```
"""

import re
from signal import Signals

_SECRETS = (
    re.compile(r"(?<=://)[^/\s@'\"]+(?=@)"),  # the user and password of an address
    re.compile(r"(?i)(?<=[?&])[\w-]*(?:token|key|secret|sig|signature|password|credential)=[^&#\s'\"]+"),
    re.compile(r"\bhf_[A-Za-z0-9]{20,}"),  # the hub's tokens
)


def masked(text: str) -> str:
    """The text without what looks like a password or a token."""
    for secret in _SECRETS:
        text = secret.sub("***", text)
    return text


class VademecumError(Exception):
    """What failed and what was found (`message`), and what to do about it (`hint`); no password, no token."""

    def __init__(self, message: str, *, hint: str) -> None:
        self.message = masked(message)
        self.hint = hint
        super().__init__(self.message)


class InputError(VademecumError):
    """Something that the user gave is wrong."""


class ConfigError(InputError):
    """A configuration file or an override cannot be used."""


class CorpusError(InputError):
    """A corpus file cannot be read as what it should be."""


class SourceError(InputError):
    """A model or corpus cannot be found, fetched or verified."""


class RunError(VademecumError):
    """The input was fine, and the work failed."""


class AuditError(RunError):
    """An audit found more than the configuration allows."""


class OutOfMemoryError(RunError):
    """More memory is needed than there is, or than the budget allows, for `work` such as `training`."""

    def __init__(self, message: str, *, hint: str, work: str) -> None:
        super().__init__(message, hint=hint)
        self.work = work


class DivergedError(RunError):
    """A loss, a gradient norm or a weight was not finite."""


class UntrainedError(RunError):
    """Training diverged or changed nothing; everything that needs no adapter was done all the same."""


class StaleError(RunError):
    """The inputs of finished work have changed, and it may not be overwritten unasked."""


class StoppedError(RunError):
    """The work stopped because it was asked to, with all that was done on disk."""

    def __init__(self, message: str, *, hint: str, signal: Signals | None = None) -> None:
        super().__init__(message, hint=hint)
        self.signal = signal
        """None: the time of the sitting is over."""
