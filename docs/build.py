"""Writes the reference pages that come from the code: configuration.md and commands.md. `make docs` runs it."""

from pathlib import Path
from typing import Any

import click
import typer

from vademecum.cli.commands import app
from vademecum.config import RunConfig
from vademecum.files import write_whole

HERE = Path(__file__).parent


def configuration_page() -> str:
    """Every setting with its default and its help, section by section."""
    lines = [
        "# Configuration",
        "",
        "Made from the code by `make docs`. A file sets what differs from the defaults; `--set section.key=value`",
        "overrides the file; `none` unsets. Unknown keys are refused.",
        "",
        "| setting | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in RunConfig.model_fields.items():
        section: Any = field.annotation
        if name == "seed":
            lines.append(f"| `seed` | `{field.default}` | {field.description} |")
            continue
        for key, setting in section.model_fields.items():
            default = _shown(setting.default)
            lines.append(f"| `{name}.{key}` | {default} | {(setting.description or '').replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def _shown(value: object) -> str:
    if value is None:
        return "unset"
    if isinstance(value, tuple):
        return f"`{list(value)}`".replace("'", '"')
    return f"`{value!r}`".replace("'", '"').replace("True", "true").replace("False", "false")


def commands_page() -> str:
    """`vade --help` and the help of every command."""
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group) or hasattr(group, "commands")  # noqa: S101
    context = click.Context(group, info_name="vade")
    lines = ["# Commands", "", "Made from the code by `make docs`.", "", "```", group.get_help(context), "```", ""]
    for name, command in group.commands.items():
        inner = click.Context(command, info_name=name, parent=context)
        lines += [f"## vade {name}", "", "```", command.get_help(inner), "```", ""]
    return "\n".join(lines)


def pages() -> dict[Path, str]:
    """The generated pages and what they should hold."""
    return {HERE / "configuration.md": configuration_page(), HERE / "commands.md": commands_page()}


if __name__ == "__main__":
    for path, text in pages().items():
        write_whole(path, text)
