"""The commands of `vade`. Each one reads its arguments, calls the library and shows what came of it."""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vademecum.errors import InputError, UntrainedError

if TYPE_CHECKING:
    from vademecum.stages import Observer, Road
    from vademecum.stopping import Stop

app = typer.Typer(
    help="Turn a small language model into a medical question-answering handbook, and prove what it is worth.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

KEPT_CONFIGS = ("config.json", "study-config.json", "search-config.json")
"""What a run, a study and a search keep of their configuration; given such a file, its directory is meant."""


class Options:
    """The options of `vade` itself, for the one command that this process runs."""

    json: bool = False
    quiet: bool = False
    offline: bool = False
    traceback: bool = False


options = Options()

Target = Annotated[
    str,
    typer.Argument(help="A preset (demo, cpu, paper, qlora-8gb, qlora-12gb, qlora-24gb, fsdp-4x12gb) or a TOML file."),
]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one setting.")]
DeclaredSettings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting of all runs (with a dot), or one of its own."),
]
Out = Annotated[Path | None, typer.Option("--out", help="The run's directory; by default runs/NAME.")]
StopAfter = Annotated[
    float | None, typer.Option(metavar="MINUTES", help="Stop this sitting in time; the same command goes on", min=0)
]
RunFolder = Annotated[Path, typer.Argument(help="A run's directory.")]


@app.callback()
def vade(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print results and errors only.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Open no network connection.")] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error came from.")] = False,
) -> None:
    """Options that come before the command."""
    options.json, options.quiet, options.offline, options.traceback = as_json, quiet, offline, traceback
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    for silent in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        os.environ.setdefault(silent, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # A cache of keys and values that grows leaves behind holes that fit nothing, unless segments can grow with it.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    # On cores with bfloat16 it warns at import that it lacks a kernel, which is not used (models/checkpoints.py).
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if quiet or as_json:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


@app.command()
def run(
    target: Target,
    settings: Settings = None,
    out: Out = None,
    until: Annotated[str | None, typer.Option(help="The last stage to run, such as train.")] = None,
    force: Annotated[list[str] | None, typer.Option(help="A stage to make anew, with all that follows.")] = None,
    stop_after: StopAfter = None,
) -> None:
    """Walk the road from corpus to verdict; what is complete is not done again.

    Started several times by torchrun or accelerate launch, the processes train together.
    """
    from vademecum.cli.signals import listening
    from vademecum.config import anchored, load_config
    from vademecum.runs import Run
    from vademecum.stages import Road, Silence, run_road
    from vademecum.stopping import Stop
    from vademecum.training import join_launcher

    ranks = join_launcher()
    config = anchored(load_config(target, settings or []))
    place = Run.create(out or Path("runs") / _run_name(target))
    road = Road(place, config, Silence(), options.offline, Stop(stop_after), ranks=ranks)
    if ranks.lead:
        _walk(road, until=until, force=force or [])
    else:
        with listening(Stop()):  # when to stop is for rank 0 to say
            run_road(road)


@app.command()
def plan(
    target: Annotated[str, typer.Argument(help="A preset, a study that ships with vade, or a TOML file of either.")],
    settings: DeclaredSettings = None,
) -> None:
    """Say whether a run, or a study, fits this machine and how long it will take, without loading weights."""
    from vademecum.cli import screens
    from vademecum.config import load_config
    from vademecum.stages import forecast_run
    from vademecum.study import forecast_study, is_study, load_study

    with screens.watching(options.quiet or options.json) as observer:
        if is_study(target):
            sizing = forecast_study(load_study(target, settings or []), observer, offline=options.offline)
            show(sizing.model_dump(mode="json"), lambda: screens.show_sizing(sizing))
        else:
            decided = forecast_run(load_config(target, settings or []), observer, offline=options.offline)
            show(decided.model_dump(mode="json"), lambda: screens.show_plan(decided))


@app.command()
def audit(
    target: Annotated[str, typer.Argument(help="A preset, a TOML file, or a run's directory.")],
    settings: Settings = None,
    examples: Annotated[int, typer.Option(help="How many examples to show.", min=0)] = 3,
) -> None:
    """Show what will really be trained: counts, and examples with the trained tokens in colour."""
    from vademecum.cli import screens
    from vademecum.stages.audit import audit_training

    folder = Path(target)
    found = (
        audit_training(folder / "config.json", settings or [], examples, options.offline)
        if (folder / "config.json").is_file()
        else audit_training(target, settings or [], examples, options.offline)
    )
    show(found.as_json(), lambda: screens.show_audit(found))


@app.command()
def init(
    table: Annotated[Path, typer.Argument(help="A CSV, JSONL or Parquet file with questions and answers.")],
    out: Annotated[Path, typer.Option("--out", help="The configuration to write.")] = Path("vade.toml"),
    model: Annotated[str, typer.Option(help="The base model.")] = "smollm2-135m",
    columns: Annotated[
        list[str] | None, typer.Option("--column", metavar="FIELD=NAME", help="A column that goes by another name.")
    ] = None,
) -> None:
    """Write a configuration for a table of your own, and show one pair as it would be trained."""
    from vademecum.cli import screens
    from vademecum.stages.audit import audit_training, write_config

    if out.exists():
        raise InputError(f"{out} exists already", hint="choose another name with --out")
    with ExitStack() as undo:
        undo.callback(out.unlink, missing_ok=True)  # whatever happens, the same command can be given again
        write_config(table, out, model, dict(_named(column) for column in columns or []))
        found = audit_training(out, [], 1, options.offline)
        undo.pop_all()
    show({"config": str(out), **found.as_json()}, lambda: screens.show_init(out, found))


@app.command()
def doctor() -> None:
    """Say what this machine can do, what will be used and why."""
    from vademecum.cli import screens
    from vademecum.hardware import choose_dtype, probe_hardware
    from vademecum.sources import cache_folder

    hardware = probe_hardware(rates_cache=cache_folder())
    dtype, reason = choose_dtype(hardware)
    show(
        {**hardware.model_dump(), "label": hardware.label, "dtype": dtype, "reason": reason},
        lambda: screens.show_hardware(hardware, dtype, reason),
    )


@app.command()
def report(
    folder: RunFolder,
    public: Annotated[
        bool, typer.Option("--public", help="Write report-public.html and .md, without questions and answers.")
    ] = False,
) -> None:
    """Render a finished run's report again."""
    from vademecum.cli import screens
    from vademecum.config import load_config
    from vademecum.runs import Run
    from vademecum.stages import render_again

    place = Run.open(folder)
    render_again(place, load_config(folder / "config.json"), public=public)
    found = place.read_json("report.json")
    page = "report-public.html" if public else "report.html"
    show(found, lambda: screens.show_verdict(found, folder, page))


@app.command()
def ask(
    folder: RunFolder,
    questions: Annotated[
        list[str] | None, typer.Argument(help="What to ask; without one, every line of standard input is a question.")
    ] = None,
    system: Annotated[str, typer.Option(help="Who answers: tuned, base or few-shot.")] = "tuned",
) -> None:
    """Ask a run's model questions of your own; beside its answer stands the nearest one that the corpus knows."""
    from vademecum.cli import screens
    from vademecum.cli.questions import typed_questions
    from vademecum.runs import Run
    from vademecum.stages.ask import Handbook

    handbook = Handbook(Run.open(folder), system, offline=options.offline)
    asked = questions or typed_questions()
    if options.json:
        replies = [handbook.answer(question).model_dump(mode="json") for question in asked]
        show({"run": str(folder), "system": system, "replies": replies}, None)
        return
    screens.show_handbook(handbook)
    for question in asked:
        screens.show_reply(handbook.answer(question))


@app.command()
def compare(
    run_a: Annotated[Path, typer.Argument(help="The baseline run.")],
    run_b: Annotated[Path, typer.Argument(help="The run that is held against it.")],
    system: Annotated[str, typer.Option(help="Whose answers to compare.")] = "tuned",
) -> None:
    """Compare two runs, paired, on the test pairs that both answered."""
    from vademecum.cli import screens
    from vademecum.runs import Run
    from vademecum.stages import compare_runs, differing_settings

    baseline, run = Run.open(run_a), Run.open(run_b)
    rows, differing = compare_runs(baseline, run, system), differing_settings(baseline, run)
    asked = {"run_a": str(run_a), "run_b": str(run_b), "system": system, "differing": differing}
    show(
        {**asked, "comparisons": [row.model_dump() for row in rows]},
        lambda: screens.show_comparison(rows, (run_a, run_b), system, differing),
    )


@app.command()
def study(
    target: Annotated[str, typer.Argument(help="A study that ships with vade (paper-study) or a TOML file.")],
    settings: DeclaredSettings = None,
    out: Annotated[Path | None, typer.Option("--out", help="Its directory; by default studies/NAME.")] = None,
    executor: Annotated[
        str,
        typer.Option(
            help="`local`; `shared-base` (train together what can be); `auto`: the one that pays here; `ray` (a "
            "cluster of this machine) or `ray:ADDRESS` (an existing one)."
        ),
    ] = "auto",
    at_once: Annotated[
        int | None,
        typer.Option(help="Trials that share the cores of a machine; by default two, where they fit.", min=1),
    ] = None,
    stop_after: StopAfter = None,
) -> None:
    """Run many trials as one, and say of each claim whether it was reproduced; the same command goes on."""
    from vademecum.cli import screens
    from vademecum.stopping import Stop
    from vademecum.study import Setting, load_study, make_executor, run_study

    declared = load_study(target, settings or [])
    folder = out or Path("studies") / _run_name(target)
    stop = Stop(stop_after)
    with _watched(stop) as observer:
        share = {"shared-base": True, "auto": None}.get(executor, False)
        setting = Setting(make_executor(executor), observer, options.offline, stop, at_once, share)
        found = run_study(declared, folder, setting)
    show(found.model_dump(mode="json"), lambda: screens.show_study(found, folder))


@app.command()
def trial(
    folder: Annotated[Path, typer.Argument(help="The directory of a study or a search.")],
    name: Annotated[str, typer.Argument(help="The trial's folder under trials/.")],
    others: Annotated[
        list[str] | None, typer.Option("--with", help="A trial to train on the same frozen base at the same time.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="The last stage to run, such as train.")] = None,
    stop_after: StopAfter = None,
) -> None:
    """Run one trial of a study, or go on with it; `vade study` does the same for all of them."""
    from vademecum.stages import Road, Silence
    from vademecum.stopping import Stop
    from vademecum.study import train_trials, trial_run

    stop = Stop(stop_after)
    if others:
        with _watched(stop) as observer:
            train_trials(
                folder,
                [name, *others],
                lambda run, config, shared: Road(run, config, observer, options.offline, stop, shared),
            )
    place, config, shared = trial_run(folder, name)
    _walk(Road(place, config, Silence(), options.offline, stop, shared), until=until)


@app.command()
def search(
    target: Annotated[str, typer.Argument(help="A search that ships with vade (lora) or a TOML file.")],
    settings: DeclaredSettings = None,
    out: Annotated[Path | None, typer.Option("--out", help="Its directory; by default searches/NAME.")] = None,
    stop_after: StopAfter = None,
) -> None:
    """Look for better settings on validation pairs; say on test pairs how much better the best ones are."""
    from vademecum.cli import screens
    from vademecum.stopping import Stop
    from vademecum.study import Setting, load_search, make_executor
    from vademecum.study.search import run_search

    declared = load_search(target, settings or [])
    folder = out or Path("searches") / _run_name(target)
    stop = Stop(stop_after)
    with _watched(stop) as observer:
        found = run_search(declared, folder, Setting(make_executor("local"), observer, options.offline, stop))
    show(found.model_dump(mode="json"), lambda: screens.show_search(found, folder))


@contextmanager
def _watched(stop: "Stop") -> Iterator["Observer"]:
    """Work that shows how far it is, and that Ctrl-C asks to stop."""
    from vademecum.cli import screens
    from vademecum.cli.signals import listening

    with listening(stop), screens.watching(options.quiet or options.json) as observer:
        yield observer


def _walk(road: "Road", *, until: str | None, force: Sequence[str] = ()) -> None:
    """Walk a run's road, and show how far it came."""
    from vademecum.cli import screens
    from vademecum.stages import run_road

    place = road.run
    untrained: UntrainedError | None = None
    with _watched(road.stop) as observer:
        try:
            run_road(replace(road, observer=observer), until=until, force=force)
        except UntrainedError as error:
            untrained = error  # what was done all the same is shown first
    if place.file("report.json").is_file() and until in (None, "report"):
        report = place.read_json("report.json")
        show(report, lambda: screens.show_verdict(report, place.path))
    else:
        show({"run": str(place.path), "stages": list(place.entries())}, lambda: screens.show_stages(place))
    if untrained:
        raise untrained


def _named(column: str) -> tuple[str, str]:
    field, sign, name = column.partition("=")
    if not sign:
        raise InputError(f"--column {column!r} has no '='", hint="such as --column question=prompt")
    return field, name


def _run_name(target: str) -> str:
    path = Path(target)
    return path.resolve().parent.name if path.name in KEPT_CONFIGS else path.stem if path.suffix else target


def show(value: Any, screen: Any) -> None:  # noqa: ANN401  any JSON value; a screen
    """Print a result: as JSON with --json, else as its screen does."""
    if options.json:
        typer.echo(json.dumps(value, ensure_ascii=False, indent=2))
    else:
        screen()
