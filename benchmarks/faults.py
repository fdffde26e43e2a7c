"""How often does a run that is killed at a random instant, and started again, end like one that was not?

    python -m benchmarks.faults [--kills N] [--seed N] [--target demo] [--set SECTION.KEY=VALUE] [--out FILE]

Without --set the tiny checkpoint takes the place of the target's model. Kills are spread over all stages. Writes
benchmarks/results/faults-MACHINE.json.
"""

import argparse
import json
import re
import tempfile
from pathlib import Path

from tests.faults.harness import TINY, Command, torture

from vademecum.files import write_json
from vademecum.hardware import probe_hardware
from vademecum.sources import cache_folder
from vademecum.stages.measuring import library_versions
from vademecum.testing import build_tiny_checkpoint

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", default="demo")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    label = probe_hardware(rates_cache=cache_folder()).label
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        settings = given.settings or [*TINY, f"model.name={build_tiny_checkpoint(scratch / 'tiny')}"]
        command = Command(given.target, settings, cache_folder())
        code, told = command.finish(scratch / "reference")
        if code:
            raise SystemExit(told)
        tally = torture(command, scratch / "reference", scratch, kills=given.kills, seed=given.seed)
    found = {
        "machine": label,
        "versions": library_versions(),
        "settings": {"target": given.target, "set": given.settings, "seed": given.seed},
        "figures": {"faults.kills": tally.kills.total(), "faults.identical": tally.identical},
        "kills_by_stage": dict(tally.kills),
        "different": tally.different,
    }
    machine = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
    write_json(given.out or RESULTS / f"faults-{machine}.json", found)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
