"""What every benchmark writes: a file per benchmark and machine, with versions, settings and figures.

    benchmarks/results/train_speed-cpu-2core-avx2.json
    {"machine": "cpu-2core-avx2", "versions": {…}, "settings": {"smollm2-135m": {"commits": ["4ac0acc"], …}},
     "figures": {"train.speedup_over_paper": {"value": 4.2, "unit": "ratio", "n": 50, "low": 3.9, "high": 4.6}, …}}

A quick run writes beside it, under `…-quick.json`, so that it never takes the place of a real one.
"""

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from vademecum.files import write_json
from vademecum.hardware import probe_hardware
from vademecum.stages.measuring import library_versions

RESULTS = Path(__file__).parent / "results"

Figure = dict[str, Any]


def machine_label() -> str:
    """This machine's name in file names, such as `cpu-2core-avx512bf16` or `cuda-h200`."""
    return re.sub(r"[^a-z0-9]+", "-", probe_hardware().label.lower()).strip("-")


def result_file(benchmark: str, *, quick: bool) -> Path:
    """Where `benchmark` writes on this machine."""
    return RESULTS / f"{benchmark}-{machine_label()}{'-quick' if quick else ''}.json"


def figure(values: Sequence[float], unit: str, n: int) -> Figure:
    """The median of `values`, with the smallest and the largest; `n` is what they were counted over."""
    return {"value": median(values), "unit": unit, "n": n, "low": min(values), "high": max(values)}


def circumstances() -> dict[str, Any]:
    """Under what a file's figures were measured; with others they are not mixed."""
    return {"machine": machine_label(), "versions": library_versions()}


def commit() -> str:
    """The checkout that measures, marked where its files differ from the commit; without git `unknown`."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=RESULTS.parent, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def commits_so_far(kept: Mapping[str, Any], *more: str) -> list[str]:
    """That measured what a file has `kept` of a subject, and more."""
    return list(dict.fromkeys([*kept.get("commits", ["before commits were noted"]), *more]))


def is_from_here(told: Mapping[str, Any]) -> bool:
    """Whether the figures of a file were measured under the circumstances of now."""
    here = circumstances()
    return {name: told.get(name) for name in here} == here


def write_result(
    file: Path, subject: str, settings: Mapping[str, Any], figures: Mapping[str, Figure], **more: object
) -> None:
    """Write the figures of one `subject` (a model), whole; those of others that are in the file stay.

    They stay only where machine and versions are the same. `more` is kept per subject, beside its settings, and so are
    the `commits` that measured: those in `settings`, or this one.
    """
    old = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if not is_from_here(old):
        old = {}
    of_others = {
        name: value
        for name, value in old.get("figures", {}).items()
        if name not in old["settings"].get(subject, {}).get("figures", ())
    }
    own = {"commits": [commit()], **settings, "figures": sorted(figures), **more}
    write_json(
        file,
        {
            **circumstances(),
            "settings": {**old.get("settings", {}), subject: own},
            "figures": {**of_others, **figures},
        },
    )
