"""Writes what comes from the code and the results: configuration.md, commands.md, the README's table. `make docs`."""

import json
from pathlib import Path
from typing import Any

import click
import typer

from vademecum.cli.commands import app
from vademecum.config import RunConfig
from vademecum.files import write_whole

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
MARKS = ("<!-- results: written by `make docs` from docs/results -->", "<!-- end of results -->")


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


def results_table(report: dict[str, Any]) -> str:
    """One run's systems with their intervals, how they were made, and the sentences on ROUGE-1."""
    run, systems = report["run"], report["systems"]
    first = next(iter(systems.values()))
    versions = ", ".join(f"{name} {run['versions'][name]}" for name in ("torch", "transformers", "trl", "peft"))
    metrics = ("rouge1", "rouge2", "rougeL", "rougeLsum")
    lines = [
        f"{first['n']} test pairs of MedQuAD in {first['groups']} groups, {report['split']['strategy']} split, "
        f"mean and {report['config']['evaluate']['level']:.0%} interval:",
        "",
        "| system | ROUGE-1 | ROUGE-2 | ROUGE-L | ROUGE-Lsum |",
        "|---|---|---|---|---|",
    ]
    for name, system in systems.items():
        cells = [system["metrics"][metric] for metric in metrics]
        shown = " | ".join(f"{cell['mean']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]" for cell in cells)
        lines.append(f"| {name} | {shown} |")
    lines.append("")
    for row in report["comparisons"]:
        if row["metric"] == "rouge1" and row["system"] == "tuned" and row["baseline"] in ("base", "copy"):
            lines.append(f"- **{row['verdict']}**: {row['reason'].removeprefix('not shown: ')}.")
    training = report["training"]
    lines += [
        "",
        f"{run['base']}; {training['optimizer_steps']} steps, {training['examples']:,} examples, "
        f"{training['real_tokens']:,} tokens; {run['device']}, {run['dtype']}, 2 cores with AVX2; {versions}. "
        f"Predicted {sum(run['predicted_seconds'].values()) / 60:.0f} minutes, took "
        f"{sum(run['seconds'].values()) / 60:.0f}.",
    ]
    return "\n".join(lines)


def readme_page() -> str:
    """The README with the table of the newest MedQuAD result."""
    text = README.read_text(encoding="utf-8")
    report = json.loads((HERE / "results" / "medquad-cpu" / "report.json").read_text(encoding="utf-8"))
    before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
    return f"{before}{MARKS[0]}\n{results_table(report)}\n{MARKS[1]}{after}"


def pages() -> dict[Path, str]:
    """The generated pages and what they should hold."""
    return {
        HERE / "configuration.md": configuration_page(),
        HERE / "commands.md": commands_page(),
        README: readme_page(),
    }


if __name__ == "__main__":
    for path, text in pages().items():
        write_whole(path, text)
