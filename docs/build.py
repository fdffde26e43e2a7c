"""Writes what comes from the code and the results: configuration.md, commands.md, the tables of README.md and
performance.md. `make docs`."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import click
import typer

from vademecum.cli.commands import app
from vademecum.config import RunConfig
from vademecum.files import write_whole

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
PERFORMANCE = HERE / "performance.md"
SCALING = HERE / "scaling.md"
MEASURED = HERE.parent / "benchmarks" / "results"
ARMS = ("paper", "paper-trl", "trl", "trl-fp32", "grouped", "packed")


class Bar(NamedTuple):
    """What a figure must show, and where."""

    figure: str
    what: str
    where: str
    machine: str
    """How the names of the machines begin that count."""
    bar: float
    aim: float
    unit: str
    at_most: bool = False
    """Small is good."""
    least_n: int = 0
    """Measured on fewer than so many, it has not been shown."""


CPU = "cpu-2core"
BUDGETS = 8
"""That `plan_accuracy` holds every configuration against."""
SMOLLM2, TINYLLAMA = "2-core CPU, SmolLM2-135M", "2-core CPU, TinyLlama's shape"
SUBJECTS = (("SmolLM2-135M", ""), ("TinyLlama's shape", ".tinyllama"))
"""Model → what its figures' names end in."""
H200 = "H200, TinyLlama's shape in bf16"
BARS = (
    Bar(
        "train.speedup_over_paper",
        "real tokens/s over the paper's recipe in our trainer",
        SMOLLM2,
        CPU,
        4,
        6,
        "x",
        least_n=50,
    ),
    Bar("train.speedup_over_paper.tinyllama", "the same", TINYLLAMA, CPU, 4, 6, "x", least_n=10),
    Bar(
        "train.speedup_over_paper_by_trl",
        "the same over that recipe in TRL's trainer",
        SMOLLM2,
        CPU,
        4,
        6,
        "x",
        least_n=50,
    ),
    Bar("train.speedup_over_trl", "real tokens/s over TRL's defaults", SMOLLM2, CPU, 2.5, 4, "x", least_n=50),
    Bar("train.gemm_share", "share of the matrix-product rate", SMOLLM2, CPU, 0.35, 0.5, "%", least_n=50),
    Bar("train.gemm_share.tinyllama", "the same", TINYLLAMA, CPU, 0.5, 0.65, "%", least_n=10),
    Bar("train.padded_fraction", "padded fraction, grouped", "MedQuAD", CPU, 0.02, 0.01, "%", at_most=True),
    Bar("generate.speedup", "answers/s over one at a time", SMOLLM2, CPU, 6, 12, "x"),
    Bar("plan.memory_error_p95", "error of memory, 95th percentile", "24 or more runs", "", 0.1, 0.05, "%", True, 24),
    Bar("plan.false_fits", "said to fit and did not", "the same", "", 0, 0, "", True, 24 * BUDGETS),
    Bar("plan.false_refusals", "said not to fit and did", "the same", "", 2, 0, "", True, 24 * BUDGETS),
    Bar(
        "plan.step_time_error", "error of a few steps' time, 95th percentile", "the same", "", 0.15, 0.08, "%", True, 24
    ),
    Bar("plan.time_error", "error of predicted time", "presets demo and cpu", "", 0.15, 0.08, "%", True, 2),
    Bar("train.tokens_per_second.grouped.tinyllama", "real tokens/s", H200, "cuda-h200", 60_000, 100_000, "tok/s"),
    Bar("shared_base.speedup.tinyllama", "eight variants on one base over one by one", H200, "cuda-h200", 4, 4, "x"),
)

PROFILED = {
    "large_products": "large products", "thin_products": "thin products", "attention": "attention",
    "elementwise": "elementwise", "copying": "copying", "filling": "filling", "loss": "loss", "other": "other",
    "outside": "no operator",
}  # fmt: skip
SCALING_FIGURES = {
    "scaling.ray.completed": "trials that came to an end on two Ray nodes, one worker killed",
    "scaling.ray.equal": "of these, equal in every step's loss to the local executor's",
    "scaling.seconds.local": "the study by the local executor, two trials at once",
    "scaling.seconds.ray": "the same on two Ray nodes of a core each",
    "scaling.seconds.ray-killed": "the same with a worker killed",
    "shared_base.speedup": "eight variants together over one after another, other learning rates",
    "shared_base.seconds_per_step.alone": "a step of all of them, one after another",
    "shared_base.seconds_per_step.together": "the same together",
    "shared_base.loss_difference": "largest difference of a step's loss, together and alone",
    "shared_base.update_difference": "largest relative difference of an update's norm",
    "shared_base.speedup.seeds": "eight variants together over one after another, other seeds too",
    "shared_base.seconds_per_step.alone.seeds": "a step of all of these, one after another",
    "shared_base.seconds_per_step.together.seeds": "the same together",
    "shared_base.loss_difference.seeds": "largest difference of a step's loss, together and alone",
    "shared_base.update_difference.seeds": "largest relative difference of an update's norm",
    "shared_base.seconds_to_load": "loading the base, once for each that trains alone",
    "scaling.thousand.minutes_per_trial": "a trial of `thousand.toml`, by the plan",
    "scaling.thousand.hours_on.1": "1,000 such trials on one machine",
    "scaling.thousand.hours_on.8": "on 8 machines",
    "scaling.thousand.hours_on.64": "on 64 machines",
}


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


def measured() -> list[dict[str, Any]]:
    """The result files of the benchmarks, without those of quick runs."""
    files = [file for file in sorted(MEASURED.glob("*.json")) if not file.stem.endswith("-quick")]
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return [result for result in found if "machine" in result]


def bars_table(results: list[dict[str, Any]]) -> str:
    """What must be shown, and what was."""
    lines = ["| figure | where | bar | aim | measured |", "|---|---|---|---|---|"]
    for bar in BARS:
        cells = [
            _judged(bar, result["figures"][bar.figure], result["machine"])
            for result in results
            if bar.figure in result["figures"] and result["machine"].startswith(bar.machine)
        ]
        sign = "≤ " if bar.at_most else ""
        goals = " | ".join(f"{sign}{_number(value, bar.unit)}" for value in (bar.bar, bar.aim))
        lines.append(f"| {bar.what} | {bar.where} | {goals} | {'; '.join(cells) or 'not measured yet'} |")
    return "\n".join(lines)


def arms_table(results: list[dict[str, Any]]) -> str:
    """Every arm of `train_speed` on every machine."""
    lines = [
        "| machine | model | arm | real tokens/s | share of the matrix product | peak memory, GB | padding | n |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for result in results:
        for model, suffix in SUBJECTS:
            for arm in ARMS:
                row = [
                    result["figures"].get(f"train.{name}.{arm}{suffix}")
                    for name in ("tokens_per_second", "gemm_share", "peak_memory_gb", "padded_fraction")
                ]
                if row[0]:
                    units = ("tok/s", "%", "GB", "%")
                    shown = [
                        _number(cell["value"], unit) if cell else "" for cell, unit in zip(row, units, strict=True)
                    ]
                    shown[0] = f"at most {shown[0]}" if row[0]["n"] == 0 else shown[0]
                    lines.append(f"| {' | '.join([result['machine'], model, arm, *shown, str(row[0]['n'])])} |")
    if len(lines) == 2:
        return "Not measured yet."
    versions = {result["machine"]: result["versions"] for result in results if "trl" in result["versions"]}
    named = ("python", "torch", "transformers", "trl", "peft")
    for machine, known in versions.items():
        lines += ["", f"{machine}: {', '.join(f'{name} {known[name]}' for name in named)}."]
    return "\n".join(lines)


def answering_table(results: list[dict[str, Any]]) -> str:
    """Every arm of `generate_speed` on every machine."""
    lines = [
        "| machine | model | arm | answers/s | tokens/s | same answers as one at a time | n |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for result in results:
        for model, suffix in SUBJECTS:
            for arm, same in (
                ("one", None),
                ("batches", "equal_share.batches"),
                ("continuous", "equal_share.continuous"),
                ("ours", "equal_share"),
            ):
                speed, tokens, share = (
                    result["figures"].get(f"generate.{name}{suffix}") if name else None
                    for name in (f"answers_per_second.{arm}", f"tokens_per_second.{arm}", same)
                )
                if speed and tokens:
                    dtype = next(iter(result["settings"].values())).get("dtype", "")
                    cells = [result["machine"], f"{model}, {dtype}", arm, f"{speed['value']:.3g}"]
                    cells += [_number(tokens["value"], "tok/s")]
                    cells += [f"{_number(share['value'], '%')} of {share['n']}" if share else "", str(speed["n"])]
                    lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else "Not measured yet."


def profile_table(results: list[dict[str, Any]]) -> str:
    """Where a training step's time goes."""
    lines = ["| machine | model | " + " | ".join(PROFILED.values()) + " |", "|---|---|" + "---:|" * len(PROFILED)]
    for result in results:
        for model, suffix in SUBJECTS:
            row = [result["figures"].get(f"profile.share.{kind}{suffix}") for kind in PROFILED]
            if any(row):
                shown = [_number(cell["value"], "%") if cell else "" for cell in row]
                lines.append(f"| {' | '.join([result['machine'], model, *shown])} |")
    return "\n".join(lines) if len(lines) > 2 else "Not measured yet."


def memory_table(results: list[dict[str, Any]]) -> str:
    """Every configuration of `plan_accuracy` on every machine."""
    lines = [
        "| machine | configuration (rows x tokens) | predicted, GB | measured, GB | error "
        "| predicted, s | measured, s | error |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for result in results:
        for row in result["settings"].get("all", {}).get("cases", []):
            cells = []
            for kind, scale, form in (("bytes", 1e9, ".2f"), ("seconds", 1, ".1f")):
                told, found = row[f"predicted_{kind}"], row[f"measured_{kind}"]
                cells += [f"{told / scale:{form}}", f"{found / scale:{form}}", f"{told / found - 1:+.1%}"]
            lines.append(f"| {' | '.join([result['machine'], row['case'], *cells])} |")
    return "\n".join(lines) if len(lines) > 2 else "Not measured yet."


def scaling_table(results: list[dict[str, Any]]) -> str:
    """What `scaling` and `shared_base` measured, machine by machine."""
    lines = ["| figure | measured, or forecast | n | machine |", "|---|---:|---:|---|"]
    for result in results:
        for suffix, model in (("", ""), (".tinyllama", "TinyLlama's shape: ")):
            for name, what in SCALING_FIGURES.items():
                if found := result["figures"].get(name + suffix):
                    spread = "" if found["low"] == found["high"] else f" [{found['low']:.3g} to {found['high']:.3g}]"
                    unit = "" if found["unit"] == "ratio" else f" {found['unit']}"
                    forecast = "forecast: " if name.startswith("scaling.thousand") else ""
                    value = f"{forecast}{found['value']:.3g}{unit}{spread}"
                    cells = [f"{model}{what}", value, found["n"], result["machine"]]
                    lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) if len(lines) > 2 else "Not measured yet."


def _judged(bar: Bar, figure: dict[str, Any], machine: str) -> str:
    value = figure["value"]
    met = [value <= goal if bar.at_most else value >= goal for goal in (bar.bar, bar.aim)]
    verdict = "aim met" if met[1] else "met" if met[0] else "**missed**"
    if 0 < figure["n"] < bar.least_n:
        verdict += f" so far, {bar.least_n} are asked for"
    bound = "at least " if figure["n"] == 0 else ""
    low, high = (_number(figure[end], bar.unit) for end in ("low", "high"))
    spread = "" if low == high else f" [{low} to {high}]"
    return f"{bound}{_number(value, bar.unit)}{spread}, n = {figure['n']}, {machine}: {verdict}"


def _number(value: float, unit: str) -> str:
    if unit == "%":
        return f"{100 * value:.3g} %"
    return f"{value:,.0f}" if unit == "tok/s" else f"{value:.3g}{unit if unit == 'x' else ''}"


def filled(page: Path, **tables: str) -> str:
    """A page with its generated parts, each between a comment that begins with its name and one that ends it."""
    text = page.read_text(encoding="utf-8")
    for name, table in tables.items():
        before, begins, rest = text.partition(f"<!-- {name}: ")
        note, closes, rest = rest.partition(" -->")
        _, ends, after = rest.partition(f"<!-- end of {name} -->")
        text = f"{before}{begins}{note}{closes}\n{table}\n{ends}{after}"
    return text


def pages() -> dict[Path, str]:
    """The generated pages and what they should hold."""
    report = json.loads((HERE / "results" / "medquad-cpu" / "report.json").read_text(encoding="utf-8"))
    results = measured()
    return {
        HERE / "configuration.md": configuration_page(),
        HERE / "commands.md": commands_page(),
        README: filled(README, results=results_table(report)),
        SCALING: filled(SCALING, figures=scaling_table(results)),
        PERFORMANCE: filled(
            PERFORMANCE,
            answering=answering_table(results),
            bars=bars_table(results),
            arms=arms_table(results),
            profile=profile_table(results),
            memory=memory_table(results),
        ),
    }


if __name__ == "__main__":
    for path, text in pages().items():
        write_whole(path, text)
