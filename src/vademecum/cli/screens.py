"""What the commands show, as tables and plain sentences."""

import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vademecum.cli.progress import Progress
from vademecum.evaluation import METRICS
from vademecum.hardware import Hardware
from vademecum.planning import Plan
from vademecum.records import Comparison
from vademecum.report import changes, why_untrained
from vademecum.report.numbers import NOT_KNOWN, duration, gigabytes, metric
from vademecum.report.plain import visible
from vademecum.report.sentences import NOT_ADVICE, statements
from vademecum.runs import Run
from vademecum.stages import Silence, too_few_groups

if TYPE_CHECKING:
    from vademecum.stages import Observer
    from vademecum.stages.ask import Handbook, Reply
    from vademecum.stages.audit import TrainingAudit
    from vademecum.study.analysis import StudyAnalysis
    from vademecum.study.search import SearchResult
    from vademecum.study.sizing import Sizing

MACHINES = (1, 2, 4, 8, 16, 32, 64)

PIPED_WIDTH = 140
"""Columns when nobody's terminal says how wide it is: the verdict's table stays on one line per system."""

# Brackets and colons in a path are part of its name.
console = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)


@contextmanager
def watching(quiet: bool) -> Iterator["Observer"]:
    """The progress display of a run: bars on a terminal, plain lines when piped, nothing when quiet."""
    observer = Silence() if quiet else Progress(Console(stderr=True, highlight=False, markup=False, emoji=False))
    with observer:
        yield observer


def show_verdict(report: Mapping[str, Any], folder: Path, page: str = "report.html") -> None:
    """The last screen of a run."""
    systems, level = report["systems"], report["config"]["evaluate"]["level"]
    _print_work(report)
    first = next(iter(systems.values()))
    table = Table(
        title=f"{first['n']} test pairs in {first['groups']} groups, means with {level:.0%} intervals",
        title_justify="left",
    )
    table.add_column("system")
    for name in METRICS:
        table.add_column(metric(name), justify="right")
    for system, row in systems.items():
        cells = [row["metrics"][name] for name in METRICS]
        table.add_row(system, *(f"{cell['mean']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]" for cell in cells))
    console.print(table)
    rows = [Comparison.model_validate(row) for row in report["comparisons"]]
    _print_differences(rows)
    console.print()
    for row in rows:
        if row.metric == "rouge1":
            console.print(Text(_sentence(row)))
    console.print(f"\nReport: {folder / page}   {NOT_ADVICE}", soft_wrap=True)


def _print_work(report: Mapping[str, Any]) -> None:
    """What was trained on what, and how long it took against what was predicted."""
    run, training = report["run"], report["training"]
    console.print(f"\n{run['base']}; corpus: {Path(report['corpus']['source']).name}", soft_wrap=True)
    if training:
        console.print(
            f"Trained {training['optimizer_steps']:,} steps, {training['examples']:,} examples from "
            f"{report['supervision']['pairs']:,} train pairs, {training['real_tokens']:,} tokens, in "
            f"{duration(run['seconds']['train'])} (predicted {duration(run['predicted_seconds']['train'])})."
        )
        for sentence in filter(None, (why_untrained(training), changes(training))):
            console.print(sentence, soft_wrap=True)
    spent, predicted = sum(run["seconds"].values()), sum(run["predicted_seconds"].values())
    console.print(f"The whole run took {duration(spent)} (predicted {duration(predicted)}).\n")


def _sentence(row: Comparison) -> str:
    return f"{row.verdict}: {row.reason.removeprefix('not shown: ')}"


def _print_differences(rows: Sequence[Comparison]) -> None:
    pairs = list(dict.fromkeys((row.system, row.baseline) for row in rows))
    table = Table(title="Paired differences", title_justify="left")
    table.add_column("comparison")
    for name in METRICS:
        table.add_column(metric(name), justify="right")
    for system, baseline in pairs:
        cells = {row.metric: row for row in rows if (row.system, row.baseline) == (system, baseline)}
        table.add_row(f"{system} - {baseline}", *(_difference(cells.get(name)) for name in METRICS))
    console.print(table)


def _difference(row: Comparison | None) -> str:
    if row is None:
        return ""
    difference = row.difference
    return f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]\n{row.verdict}"


def show_handbook(handbook: "Handbook") -> None:
    """Who will answer, and what the run's test says of it."""
    console.print(f"{handbook.system} of {handbook.run.path}. {NOT_ADVICE}", soft_wrap=True)
    if handbook.run.file("report.json").is_file():
        for row in statements(handbook.run.read_json("report.json")):
            if row.versus.startswith(f"{handbook.system} against"):
                console.print(Text(f"{row.versus}: {row.verdict}. {row.text}"))


def show_reply(reply: "Reply") -> None:
    """A question, the model's answer, and the nearest answer that the corpus knows."""
    known = reply.nearest
    ended = {"length": "It was cut at its longest.", "loop": "It was ended where it went round in circles."}
    console.print(f"\n{visible(reply.question)}", style="bold", soft_wrap=True)
    console.print(visible(reply.answer) or "(an empty answer)", soft_wrap=True)
    if reply.stopped in ended:
        console.print(ended[reply.stopped], style="dim")
    if known is None:
        console.print("\nNo question of the corpus shares a word with this one.", style="bold", soft_wrap=True)
        return
    origin = ", ".join(filter(None, (known.source, known.url)))
    console.print(
        f"\nThe nearest question that the corpus answers: {visible(known.question)}"
        + (f" ({visible(origin)})" if origin else ""),
        style="bold",
        soft_wrap=True,
    )
    console.print(f"It shares with yours: {visible(', '.join(reply.shared))}.", style="dim", soft_wrap=True)
    console.print(visible(known.answer), soft_wrap=True)


def show_stages(run: Run) -> None:
    """What a run directory holds so far."""
    for name, entry in run.entries().items():
        cost = f"{duration(entry.seconds):>9}  {gigabytes(entry.peak_memory_bytes):>9}"
        console.print(f"{name:18} {cost}  {', '.join(entry.outputs)}", soft_wrap=True)


def show_plan(plan: Plan) -> None:
    """What a run will cost."""
    console.print(f"{plan.base}\n{plan.device}, {plan.dtype}: {plan.dtype_reason}")
    _print_candidates(plan)
    source = "measured in a probe" if plan.measured else "from the rate of matrix products; `vade run` measures it"
    table = Table(title=f"Time, {source}", title_justify="left")
    table.add_column("stage")
    table.add_column("time", justify="right")
    for stage, seconds in plan.predicted_seconds.items():
        table.add_row(stage, duration(seconds))
    table.add_row("in all", duration(plan.total_seconds), style="bold")
    console.print(table)
    ended = {"epochs": "all epochs", "budget": "what the budget leaves", "max_steps": "as configured"}[plan.ended_by]
    console.print(
        f"{plan.optimizer_steps} optimizer steps ({ended}; all epochs would be {plan.full_steps}), "
        f"{plan.real_tokens:,} tokens, at {plan.rates.train_tokens_per_second:,.0f} tokens/s."
    )
    peaks, limit = plan.predicted_peak_bytes, gigabytes(plan.memory_limit_bytes)
    console.print(
        f"It fits: at the worst moment training takes {gigabytes(peaks['train'])} and answering "
        f"{gigabytes(peaks['predict'])} of {limit} ({plan.memory_limit_reason}), with {plan.answer_rows} answers "
        f"at a time. On the disk: {gigabytes(plan.disk_bytes)}."
    )
    if plan.answer_quantization != "none":
        console.print(f"All systems answer with {plan.answer_quantization} weights.")


def _print_candidates(plan: Plan) -> None:
    """What there was to choose from, and what each gives up."""
    if not plan.candidates:
        return
    table = Table(title=f"Training in {gigabytes(plan.memory_limit_bytes)}", title_justify="left")
    for name in ("weights", "examples per step", "checkpointing", "memory", "time", "gives up", ""):
        table.add_column(name)
    for one in plan.candidates:
        chosen = one.settings == plan.settings
        table.add_row(
            one.quantization,
            f"{one.per_device_train_batch_size} x {one.gradient_accumulation_steps}",
            "yes" if one.gradient_checkpointing else "no",
            gigabytes(one.training_bytes),
            f"{one.relative_seconds:.2f} x",
            one.gives_up,
            "chosen" if chosen else "" if one.fits else "does not fit",
            style="bold" if chosen else None,
        )
    console.print(table)


def show_audit(audit: "TrainingAudit") -> None:
    """What will really be trained."""
    cleaning, found = audit.cleaning, audit.supervision
    table = Table(title=f"{cleaning['source']} with {audit.base}", title_justify="left", show_header=False)
    table.add_row("pairs in the corpus", f"{cleaning['pairs_in']:,}")
    for rule, count in cleaning["rules"].items():
        table.add_row(f"  {rule}", f"{count:,}")
    table.add_row("pairs kept", f"{cleaning['pairs_kept']:,}")
    for kind, found_in in audit.identifiers.items():
        first = (
            f" in {found_in['pairs']:,} pairs: {', '.join(map(repr, found_in['first_ids']))}"
            if found_in["count"]
            else ""
        )
        table.add_row(f"  look like a {kind.replace('_', ' ')}", f"{found_in['count']:,}{first}")
    for name, count in audit.counts.items():
        table.add_row(f"  {name}", f"{count:,}")
    table.add_row("groups of the test pairs that are answered", f"{audit.test_groups:,}")
    for name, share in audit.leakage.items():
        if name != "n_test":
            known = name not in cleaning["missing_fields"]
            table.add_row(f"test pairs whose {name} stands in train", f"{share:.1%}" if known else NOT_KNOWN)
    for name, value in found.model_dump().items():
        table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, int) else f"{value:.3f}")
    console.print(table)
    for remark in cleaning["remarks"]:
        console.print(Text(remark), soft_wrap=True)
    if "focus" in cleaning["missing_fields"]:
        console.print(
            "No field says what a pair is about: pairs on one subject may stand in train and in test. Map a column to "
            "focus, if there is one.",
            soft_wrap=True,
        )
    if audit.test_groups < audit.groups_needed:
        console.print(too_few_groups(audit.test_groups, audit.groups_needed), soft_wrap=True)
    _print_examples(audit)


def _print_examples(audit: "TrainingAudit") -> None:
    for pieces in audit.examples:
        text = Text()
        for piece, trained in pieces:
            seen = visible(piece)  # a terminal would obey what a corpus says after an escape character
            marked = seen if console.is_terminal or not trained else f"⟦{seen}⟧"
            text.append(marked, style="bold green" if trained else "dim")
        console.rule("one row: trained tokens in colour" if console.is_terminal else "one row: trained tokens in ⟦ ⟧")
        console.print(text)


def show_init(out: Path, audit: "TrainingAudit") -> None:
    """A new configuration, and a pair as it is trained."""
    show_audit(audit)
    console.print(f"\nWrote {out}. Next: vade run {shlex.quote(str(out))}", soft_wrap=True)


def show_hardware(hardware: Hardware, dtype: str, reason: str) -> None:
    """What this machine can do."""
    table = Table(title="This machine", title_justify="left", show_header=False)
    table.add_row("processor", f"{hardware.cpu}, {hardware.cores} usable cores, {', '.join(hardware.instruction_sets)}")
    table.add_row("memory", f"{gigabytes(hardware.memory_free_bytes)} free of {gigabytes(hardware.memory_bytes)}")
    if hardware.device != "cpu":
        capability = ".".join(map(str, hardware.compute_capability or ()))
        table.add_row("accelerator", f"{hardware.device_name}, {gigabytes(hardware.device_memory_bytes)} {capability}")
    for name, rate in hardware.matmul_flops.items():
        table.add_row(f"matrix products in {name}", f"{rate / 1e9:,.1f} GFLOP/s")
    table.add_row("will compute on", hardware.device)
    table.add_row("in", f"{dtype}: {reason}")
    console.print(table)


def show_study(found: "StudyAnalysis", folder: Path) -> None:
    """The last screen of a study: each claim with its verdict, and what is still missing."""
    for row in found.claims:
        console.print(Text(f"{row.verdict}: {row.name}. {row.reason}"))
    if found.missing:
        console.print(Text(f"not run yet: {', '.join(found.missing)}"))
    ended = Counter(trial.outcome for trial in found.trials)
    console.print(f"\n{', '.join(f'{count} {status}' for status, count in ended.items())}")
    console.print(f"Report: {folder / 'study.html'}   {NOT_ADVICE}", soft_wrap=True)


def show_sizing(sizing: "Sizing") -> None:
    """What a study will take: each trial, and all of them on one machine and on more."""
    from vademecum.study.design import is_trial_of

    table = Table(title="Trials, from the rate of matrix products; `vade study` measures it", title_justify="left")
    for name in ("variant", "trials", "optimizer steps", "time each"):
        table.add_column(name, justify="left" if name == "variant" else "right")
    for variant, steps in sizing.optimizer_steps.items():
        trials = [name for name in sizing.minutes if is_trial_of(name, variant)]
        table.add_row(variant, str(len(trials)), f"{steps:,}", duration(60 * sizing.minutes[trials[0]]))
    console.print(table)
    pairs = "all" if sizing.train_pairs is None else f"{sizing.train_pairs:,}"
    console.print(
        f"{len(sizing.minutes):,} trials on {pairs} train pairs each; what all of them share takes "
        f"{duration(60 * sizing.shared_minutes)}."
    )
    if sizing.caveat:
        console.print(sizing.caveat, soft_wrap=True)
    counts = [count for count in MACHINES if count <= len(sizing.minutes)]
    times = [f"on {count}: {duration(60 * sizing.minutes_on(count))}" for count in counts]
    console.print(f"Machines like this one: {', '.join(times)}.", soft_wrap=True)


def show_search(found: "SearchResult", folder: Path) -> None:
    """The last screen of a search: what was tried, the best first, and what it is worth on test pairs."""
    table = Table(title="trials by validation loss", title_justify="left")
    for name in ("trial", "settings", "status", "validation loss"):
        table.add_column(name)
    for row in sorted(found.trials, key=lambda row: (row.validation_loss is None, row.validation_loss)):
        settings = ", ".join(f"{name.partition('.')[2]} {value}" for name, value in row.settings.items())
        loss = "" if row.validation_loss is None else f"{row.validation_loss:.4f}"
        table.add_row(row.name, settings, row.status, loss)
    console.print(table)
    if not found.comparisons:
        console.print(_why_the_baseline(found))
    for comparison in found.comparisons:
        console.print(Text(_sentence(comparison)))
    if found.comparisons:
        console.print(
            "One training against one: another seed may do better or worse; `vade study` measures by how much."
        )
    console.print(f"\nThe best configuration: {folder / 'best.json'}   {NOT_ADVICE}", soft_wrap=True)


def _why_the_baseline(found: "SearchResult") -> str:
    """Why a search has found nothing better."""
    ended = Counter(row.status for row in found.trials if row.settings)
    if not ended:
        return "No settings were tried: the minutes leave no time for a trial."
    if "completed" not in ended:
        ends = ", ".join(f"{count} {status}" for status, count in ended.items())
        return f"No trial completed its training ({ends}), so the settings could not be judged."
    return "No settings had a lower validation loss than the baseline's."


def show_comparison(
    rows: Sequence[Comparison], runs: tuple[Path, Path], system: str, differing: Mapping[str, tuple[object, object]]
) -> None:
    """Two runs, paired, and in what they were set differently."""
    console.print(f"{system} of {runs[1]} against {system} of {runs[0]}", soft_wrap=True)
    for name, (before, after) in differing.items():
        console.print(Text(f"  {name}: {before} → {after}"), soft_wrap=True)
    _print_differences(rows)
    for row in rows:
        console.print(Text(_sentence(row)))
