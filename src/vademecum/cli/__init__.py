"""The command line. Everything that is printed, and every exit code, comes from this package."""

from vademecum.cli.entry import main

__all__ = ["main"]
