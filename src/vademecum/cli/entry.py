"""Where `vade` begins and ends."""

import sys
import traceback

import typer

from vademecum.cli.commands import app, options, show
from vademecum.errors import InputError, StoppedError, VademecumError, masked

INTERRUPTED = 130
"""The exit code that Typer gives after Ctrl-C: 128 and the signal's number."""


def _show_traceback() -> None:
    if options.traceback:
        typer.echo(masked(traceback.format_exc()), err=True)


def main() -> None:
    """Run `vade`; the one place where errors become words and exit codes."""
    try:
        app(standalone_mode=True)
    except StoppedError as stopped:
        told = f"{stopped.message}\nhint: {stopped.hint}"
        show({"stopped": stopped.message, "hint": stopped.hint}, lambda: typer.echo(told, err=True))
        sys.exit(128 + stopped.signal if stopped.signal else 0)
    except VademecumError as error:
        _show_traceback()
        typer.echo(f"error: {error.message}", err=True)
        typer.echo(f"hint: {error.hint}", err=True)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except OSError as error:
        _show_traceback()
        typer.echo(f"error: {masked(str(error))}", err=True)
        typer.echo(
            "hint: look whether the disk has room and the folder can be written; --traceback says more", err=True
        )
        sys.exit(1)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            typer.echo("stopped; give the same command again to go on", err=True)
        raise
