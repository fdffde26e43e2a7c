"""How often does a run that is killed at a random instant, and started again, end like one that was not?

    python -m benchmarks.faults                                    60 kills on the tiny checkpoint
    python -m benchmarks.faults --smollm2 MedQuAD-master.zip       10 kills on SmolLM2-135M with MedQuAD pairs
    python -m benchmarks.faults --inputs                           the tables of bad corpora and bad models
    … [--kills N] [--seed N] [--out FILE]

Kills are spread over all stages. Each part goes into benchmarks/results/faults-MACHINE.json, beside the others.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.faults_record import record
from tests.faults.harness import TINY, Command, torture

from vademecum.sources import cache_folder
from vademecum.testing import build_tiny_checkpoint

ROOT = Path(__file__).parent.parent
TABLES = ("tests/corpus/test_bad_inputs.py", "tests/models/test_bad_models.py")
SMALL = (
    "model.device=cpu", "model.dtype=float32", "budget.minutes=none", "train.max_steps=6", "train.save_steps=2",
    "train.max_length=256", "train.max_cut_share=1.0", "train.max_pairs=64", "train.eval_pairs=4",
    "train.per_device_train_batch_size=2", "generate.max_new_tokens=24", "generate.test_pairs=8",
    "generate.batch_size=4", "generate.validation_pairs=2", "evaluate.resamples=200",
)  # fmt: skip
"""A run of minutes on the real model: a few steps and answers, with checkpoints and chunks to be killed between."""


def count_kills(target: str, settings: Sequence[str], scratch: Path, *, kills: int, seed: int) -> dict[str, Any]:
    """Walk once in peace, then be killed and go on `kills` times."""
    command = Command(target, settings, cache_folder())
    code, told = command.finish(scratch / "reference")
    if code:
        raise SystemExit(told)
    tally = torture(command, scratch / "reference", scratch, kills=kills, seed=seed)
    return {
        "target": target,
        "seed": seed,
        "figures": {"faults.kills": tally.kills.total(), "faults.identical": tally.identical},
        "kills_by_stage": dict(tally.kills),
        "different": tally.different,
    }


def count_inputs(scratch: Path) -> dict[str, Any]:
    """Put every row of the tables through the readers, in the tests that say what must come of it."""
    named = [f"{table}::test_ends_as_specified" for table in TABLES]
    outcome = scratch / "outcome.xml"
    command = [sys.executable, "-m", "pytest", *named, f"--junit-xml={outcome}"]
    subprocess.run(command, cwd=ROOT, check=False, stdout=sys.stderr)
    cases = list(ElementTree.parse(outcome).iter("testcase"))
    wrong = [str(case.get("name")) for case in cases if len(case)]
    return {
        "figures": {"inputs.tried": len(cases), "inputs.as_specified": len(cases) - len(wrong)},
        "otherwise": wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm2", type=Path, metavar="MEDQUAD", help="SmolLM2-135M with the pairs of this corpus")
    parser.add_argument("--inputs", action="store_true", help="the tables of bad inputs instead of kills")
    parser.add_argument("--kills", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        if given.inputs:
            part, found = "inputs", count_inputs(scratch)
        else:
            part, target, kills = "kills on tiny", "demo", given.kills or 60
            settings = [*TINY, f"model.name={build_tiny_checkpoint(scratch / 'tiny')}"]
            if given.smollm2:
                part, target, kills = "kills on SmolLM2", "cpu", given.kills or 10
                settings = [*SMALL, f"corpus.source={given.smollm2.resolve()}"]
            found = count_kills(target, settings, scratch, kills=kills, seed=given.seed)
    file = record(part, found, given.out)
    print(json.dumps(found, indent=2))
    print(f"\nwritten to {file}")


if __name__ == "__main__":
    main()
