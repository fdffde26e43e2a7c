"""Questions from standard input."""

import sys
from collections.abc import Iterator

import typer

from vademecum.errors import InputError


def typed_questions() -> Iterator[str]:
    """Standard input, line by line; somebody who sits there is asked for the next one.

    Raises:
        InputError: a line is not text in the terminal's encoding.
    """
    while True:
        if sys.stdin.isatty():
            typer.echo("? ", nl=False, err=True)
        try:
            line = sys.stdin.readline()
        except UnicodeDecodeError as error:
            raise InputError(
                f"standard input holds the byte 0x{error.object[error.start]:02x}, which is not {error.encoding}",
                hint="give the questions as UTF-8 text",
            ) from None
        if not line:
            return
        if line.strip():
            yield line
