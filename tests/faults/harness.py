"""Kills a run at random instants, goes on with the same command, and holds the end against an uninterrupted run."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from vademecum.runs import Run

TINY = (
    "model.device=cpu", "model.dtype=float32", "budget.minutes=none", "train.max_steps=6", "train.save_steps=2",
    "train.max_length=512", "train.max_cut_share=1.0", "train.eval_pairs=4", "lora.lora_dropout=0.1",
    "generate.batch_size=5", "generate.max_new_tokens=12", "generate.test_pairs=24", "generate.validation_pairs=2",
    "evaluate.resamples=200",
)  # fmt: skip
"""Makes a preset small enough for the tiny checkpoint, with several checkpoints and chunks to be killed between."""
CLOCKED = ("config.json", "manifest.json", "plan.json", "timing.jsonl", "training.json", ".lock")
"""Files with clock readings or paths in them; what they hold besides is in the others."""


@dataclass(frozen=True)
class Command:
    """A `vade run` that is given again and again."""

    target: str
    settings: Sequence[str]
    cache: Path
    limits: Sequence[str] = ()
    """A program that the command is started through, such as prlimit."""

    def start(self, folder: Path, *more: str) -> "subprocess.Popen[str]":
        """Start it in a process of its own, with one thread, so that sums come out the same."""
        changes = [part for setting in self.settings for part in ("--set", setting)]
        given = ["run", self.target, *changes, "--out", str(folder), *more]
        return subprocess.Popen(
            [*self.limits, sys.executable, "-m", "vademecum", *given],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "VADE_CACHE": str(self.cache), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )

    def finish(self, folder: Path, *more: str) -> tuple[int, str]:
        """Run it to its end; the exit code, and what it said."""
        process = self.start(folder, *more)
        _, told = process.communicate()
        return process.returncode, told


@dataclass
class Tally:
    """What came of the kills."""

    kills: Counter[str] = field(default_factory=Counter)
    """Stage → how often it was killed."""
    different: dict[str, list[str]] = field(default_factory=dict)
    """Run → its artifacts that are not the uninterrupted run's."""
    identical: int = 0
    """Kills whose run ended like the uninterrupted one."""


def kill_in(process: "subprocess.Popen[str]", stage: str, after_seconds: float) -> bool:
    """Wait until a stage begins and a little more, then kill; False where the process has ended before."""
    assert process.stderr is not None
    with process.stderr as told:
        for line in told:
            if line.strip() == f"{stage} …":
                break
        try:
            process.wait(after_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return True
    return False


def artifacts(folder: Path) -> dict[str, bytes]:
    """Everything that a repeated run must repeat: all but clock readings, the report (it shows them) and the card."""
    return {
        name: file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        for name in (file.relative_to(folder).as_posix(),)
        if name not in CLOCKED and not name.startswith(("report.", "adapter/README"))
    }


def differences(folder: Path, reference: Path) -> list[str]:
    """The artifacts of two runs that are missing on one side or not the same, byte for byte."""
    one, other = artifacts(folder), artifacts(reference)
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def torture(command: Command, reference: Path, scratch: Path, *, kills: int, seed: int) -> Tally:
    """Kill runs `kills` times: in each run, one time a stage at most, at an instant drawn from the stage's length."""
    stages = {name: entry.seconds for name, entry in Run.open(reference).entries().items()}
    rng, tally = Random(seed), Tally()
    while tally.kills.total() < kills:
        folder = scratch / f"{seed}-{tally.kills.total()}"
        before = tally.kills.total()
        chosen = set(rng.sample(sorted(stages), min(kills - before, len(stages))))
        for stage in [name for name in stages if name in chosen]:
            tally.kills[stage] += kill_in(command.start(folder), stage, rng.uniform(0, stages[stage]))
        code, told = command.finish(folder)
        assert code == 0, told
        if found := differences(folder, reference):
            tally.different[folder.name] = found
        else:
            tally.identical += tally.kills.total() - before
    return tally
