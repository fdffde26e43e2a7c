"""A program that runs another one, and ends it when whoever started both is gone, however that ended.

    python -I attendant.py COMMAND…        leader of a session of its own; standard input: a pipe that the starter holds

The kernel closes the pipe when the starter ends, even by SIGKILL; then the whole process group is killed, and with it
whatever the command has started. A process of its own watches the pipe, so that it also sees to the rest when the
attendant is killed: a Ray worker does that to its children when it ends. This needs nothing between fork and exec in
the starter, which is not safe where there are threads, and works wherever there are process groups. SIGTERM is passed
on to the command. The exit code, or the signal, is the command's. Only the standard library is imported: an attendant
starts in a few hundredths of a second.
"""

import os
import signal
import subprocess
import sys
from types import FrameType

NOT_FOUND = 127
"""The shell's exit code for a command that cannot be started."""


def attend(command: list[str]) -> int:
    """Run `command` to its end; its exit code, negative for the signal that ended it."""
    started: list[subprocess.Popen[bytes]] = []
    asked: list[int] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        asked.append(number)
        for process in started:
            process.send_signal(number)

    watcher = _watch_the_starter()
    signal.signal(signal.SIGTERM, pass_on)
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603  a study's own trial
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error}\n")
        code = NOT_FOUND
    else:
        started.append(process)
        if asked:  # while it was being started
            process.terminate()
        code = process.wait()
    # The watcher, and what the command may have left behind, are told to end; the group is still this process's own.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    os.waitpid(watcher, 0)
    return code


def _watch_the_starter() -> int:
    """Fork a process that kills the group once the starter is gone; its id."""
    watcher = os.fork()
    if watcher == 0:
        while os.read(0, 1):
            pass
        os.killpg(0, signal.SIGKILL)
    return watcher


def main() -> int:
    """End as the command has ended."""
    code = attend(sys.argv[1:])
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
