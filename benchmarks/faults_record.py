"""The one file that the measurements of faults write into: benchmarks/results/faults-MACHINE.json.

Each part replaces its own earlier one; `figures` is made anew from all of them.
"""

import json
from pathlib import Path
from typing import Any

from benchmarks.results import machine_label, result_file

from vademecum.files import write_json
from vademecum.stages.measuring import library_versions


def record(part: str, found: dict[str, Any], out: Path | None) -> Path:
    """Put one part into the file of this machine, or into `out`, and return where it is."""
    file = out or result_file("faults", quick=False)
    parts = json.loads(file.read_text(encoding="utf-8"))["parts"] if file.is_file() else {}
    parts[part] = {"machine": machine_label(), "versions": library_versions(), **found}
    write_json(file, {"figures": figures(parts), "parts": dict(sorted(parts.items()))})
    return file


def figures(parts: dict[str, dict[str, Any]]) -> dict[str, int]:
    """The sums over all parts: kills on every model, inputs of every table, safeguards."""
    totals: dict[str, int] = {}
    for found in parts.values():
        for name, count in found["figures"].items():
            totals[name] = totals.get(name, 0) + count
    return dict(sorted(totals.items()))
