"""How fast does training go through real tokens: the paper's recipe, TRL's defaults, and ours?

    python -m benchmarks.train_speed [--quick] [--model smollm2|tinyllama|FOLDER] [--random] [--arms ARM …]
        [--rounds N] [--steps N] [--micro-batch N] [--add] [--minutes-limit M] [--device cpu|cuda]
        [--out FILE]

Arms take turns: a round is one block of steps of every arm (training_block.py), in an order that rotates, so that a
machine that slows down slows all of them. Speed is the sum of true lengths over the time, padding not counted; ratios
are taken within a round. A figure is the median over the rounds, with the lowest and the highest; n counts timed steps.
`train.gemm_share` is the share of the matrix-product rate, measured in the same process, that operations which are
really needed (workload.Shape) come to. `train.speedup_over_paper` is over the paper's settings in our own trainer,
`train.speedup_over_paper_by_trl` over the same in TRL's, `train.speedup_over_trl` over the faster of the two arms of
TRL's defaults. The arm `trl` computes in bf16 whatever the machine; where a block of it does not get through, what it
had not finished when its time was up bounds its speed from above, and the figure says so with n = 0.

After every round benchmarks/results/train_speed-MACHINE.json is written. Figures of the TinyLlama shape end in
`.tinyllama`; a second run for another model adds its figures to the file,
and `--add` adds rounds to those of the same model, so that slow arms can take part in fewer of them.
"""

import argparse
import json
import multiprocessing
import signal
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.results import Figure, commit, commits_so_far, figure, is_from_here, result_file, write_result
from benchmarks.training_block import ARMS, Arm, Begun, Block, Message, Rate, Step, run_block
from benchmarks.workload import Subject, find_subject, find_workload

from vademecum.hardware import choose_dtype, probe_hardware
from vademecum.sources import cache_folder

EMULATED_MINUTES = 5.0
"""The most that a block of `trl` may take where bf16 is not the fastest number format: it would go on for hours."""
Row = dict[str, Any]
"""What a block came to, as the result file keeps it."""
QUICK_LENGTH = 256
"""A quick run takes only rows of at most so many tokens, for all arms."""


@dataclass
class Outcome:
    """What a block came to."""

    block: Block
    steps: list[Step] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    begun: tuple[float, int] | None = None
    """When the step in flight began, and its real tokens."""
    unfinished: float | None = None
    """Tokens per second that the step which was cut off would at most have had."""
    failed: bool = False

    def __str__(self) -> str:
        if not self.steps:
            bound = "" if self.unfinished is None else f", at most {self.unfinished:.3g} tokens/s"
            return f"{self.block.arm}: {'failed' if self.failed else 'not one timed step'}{bound}"
        return f"{self.block.arm}: {self.tokens_per_second:.1f} tokens/s, {self.gemm_share:.0%} of the matrix product"

    def note(self, message: Message) -> None:
        """Take in what the block's process told."""
        if isinstance(message, Rate):
            self.rates.append(message.flops)
        elif isinstance(message, Begun):
            self.begun = (time.monotonic(), message.real_tokens)
        elif isinstance(message, Step):
            self.steps.append(message)
        else:
            self.peak_bytes = message.bytes

    @property
    def tokens_per_second(self) -> float | None:
        """Real ones."""
        if self.steps:
            return sum(step.real_tokens for step in self.steps) / sum(step.seconds for step in self.steps)
        return self.unfinished

    @property
    def gemm_share(self) -> float | None:
        """Useful operations per second over the matrix product's."""
        if not self.steps:
            return None
        flops = sum(step.flops for step in self.steps) / sum(step.seconds for step in self.steps)
        return flops / (sum(self.rates) / len(self.rates))

    @property
    def row(self) -> dict[str, Any]:
        """For the result file."""
        slots = sum(step.slots for step in self.steps)
        return {
            "arm": self.block.arm,
            "steps": len(self.steps),
            "tokens_per_second": self.tokens_per_second,
            "padded_fraction": 1 - sum(step.real_tokens for step in self.steps) / slots if slots else None,
            "gemm_share": self.gemm_share,
            "matrix_product_flops": self.rates,
            "peak_memory_bytes": self.peak_bytes,
            "failed": self.failed,
        }


def run(block: Block, minutes_limit: float) -> Outcome:
    """Do a block in a process of its own, and end it when its time is up."""
    outcome = Outcome(block)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=run_block, args=(block, theirs))
    process.start()
    theirs.close()
    until = time.monotonic() + 60 * minutes_limit
    try:
        while ours.poll(max(0.0, until - time.monotonic())):
            outcome.note(ours.recv())
        if outcome.begun is not None:
            began, tokens = outcome.begun
            outcome.unfinished = tokens / (time.monotonic() - began)
    except EOFError:
        process.join()
        outcome.failed = process.exitcode != 0
    finally:
        process.kill()
        process.join()
    return outcome


def figures(rounds: list[list[Row]]) -> dict[str, Figure]:
    """What the rounds done so far say."""
    found: dict[str, Figure] = {}
    units = {"tokens_per_second": "tokens/s", "gemm_share": "share", "padded_fraction": "share"}
    for arm in ARMS:
        rows = [row for each in rounds for row in each if row["arm"] == arm]
        steps = sum(row["steps"] for row in rows)
        for name, unit in units.items():
            values = [row[name] for row in rows if row.get(name) is not None]
            if values:
                bound = " at most" if name == "tokens_per_second" and not steps else ""
                found[f"train.{name}.{arm}"] = figure(values, unit + bound, steps)
        peaks = [row["peak_memory_bytes"] / 1e9 for row in rows if row["peak_memory_bytes"] is not None]
        if peaks:
            found[f"train.peak_memory_gb.{arm}"] = figure(peaks, "1e9 bytes", steps)
    rivals: dict[str, tuple[Arm, ...]] = {
        "paper": ("paper",),
        "paper_by_trl": ("paper-trl",),
        "trl": ("trl", "trl-fp32"),
    }
    for name, arms in rivals.items():
        ratio = speedup(rounds, arms)
        if ratio is not None:
            found[f"train.speedup_over_{name}"] = ratio
    if "train.gemm_share.grouped" in found:
        found["train.gemm_share"] = found["train.gemm_share.grouped"]
    return found


def speedup(rounds: list[list[Row]], others: tuple[Arm, ...]) -> Figure | None:
    """How many times faster `grouped` is than the fastest of `others`, round by round."""
    ratios, ours, theirs = [], 0, 0
    for each in rounds:
        rows = {row["arm"]: row for row in each if row["tokens_per_second"] is not None}
        rivals = [rows[arm] for arm in others if arm in rows]
        if "grouped" in rows and rivals:
            ratios.append(rows["grouped"]["tokens_per_second"] / max(row["tokens_per_second"] for row in rivals))
            ours += rows["grouped"]["steps"]
            theirs += max(row["steps"] for row in rivals)
    n = min(ours, theirs)
    return figure(ratios, "ratio" if n else "ratio at least", n) if ratios else None


def earlier(file: Path, subject: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What earlier sittings have left in the result file of a subject, its `rounds` too, if done in the same way.

    Raises:
        SystemExit: they were not.
    """
    if not file.is_file():
        return {}
    told = json.loads(file.read_text(encoding="utf-8"))
    if not is_from_here(told):
        raise SystemExit(f"{file} holds rounds of another machine or other versions: move it away, or leave out --add")
    kept: dict[str, Any] = told["settings"].get(subject, {})
    alike = ("weights", "rows", "dtype", "device", "max_length", "micro_batch", "steps_per_block")
    if kept and any(kept[name] != settings[name] for name in alike):
        raise SystemExit(f"{file} holds rounds that were done with other settings: move it away, or leave out --add")
    return kept


def padding(block: Block) -> Figure:
    """Share of padding in a whole pass over the rows, as `grouped` lays them out."""
    examples = block.workload.examples(block.subject, block.config[0])
    return figure([block.lay_out(examples).padded_fraction], "share", len(examples))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of two steps, short rows, another file")
    parser.add_argument("--model", default="smollm2", help="smollm2, tinyllama (at random) or a checkpoint's folder")
    parser.add_argument("--random", action="store_true", help="SmolLM2's shape with random weights")
    parser.add_argument("--arms", nargs="+", choices=ARMS, help="default: all, and paper grouped for tinyllama")
    parser.add_argument("--rounds", type=int, help="default: 5")
    parser.add_argument("--steps", type=int, help="timed steps per block; default: 10, and 2 for tinyllama")
    parser.add_argument("--micro-batch", type=int, help="examples, of grouped and packed; default: 2, and 64 on CUDA")
    parser.add_argument("--add", action="store_true", help="add to the rounds in the result file, with any arms")
    parser.add_argument("--minutes-limit", type=float, default=30.0, help="of a block")
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def blocks(given: argparse.Namespace, subject: Subject) -> dict[Arm, Block]:
    """What a round is made of."""
    hardware = probe_hardware(rates_cache=cache_folder())
    device = given.device or hardware.device
    large = subject.name == "tinyllama"
    named = given.arms or (("paper", "grouped") if large else ARMS)
    workload = find_workload(subject, longest=QUICK_LENGTH if given.quick else None)
    return {
        arm: Block(
            arm=arm,
            subject=subject,
            workload=workload,
            dtype=choose_dtype(hardware, device)[0],
            device=device,
            steps=given.steps or (2 if given.quick or large else 10),
            seed=0,
            micro_batch=given.micro_batch or (64 if device == "cuda" else 2),
            max_length=QUICK_LENGTH if given.quick else 512,
        )
        for arm in ARMS
        if arm in named
    }


def main() -> None:
    """Run the rounds, writing the result after each block."""
    given = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else the process of a block would live on
    subject = find_subject(given.model, random=given.random)
    arms = blocks(given, subject)
    first = next(iter(arms.values()))
    count = given.rounds or (1 if given.quick else 5)
    emulated = 0.5 if given.quick else EMULATED_MINUTES
    limits = dict.fromkeys(arms, given.minutes_limit)
    if "trl" in limits and first.dtype != "bfloat16":
        limits["trl"] = min(given.minutes_limit, emulated)
    suffix = ".tinyllama" if subject.name == "tinyllama" else ""
    padded = padding(replace(first, arm="grouped"))
    settings = {
        "quick": given.quick,
        "weights": "random" if subject.folder is None else "real",
        "rows": first.workload.name,
        "dtype": first.dtype,
        "device": first.device,
        "max_length": first.max_length,
        "micro_batch": first.micro_batch,
        "steps_per_block": first.steps,
        "minutes_limit": limits,
    }
    file = given.out or result_file("train_speed", quick=given.quick)
    kept = earlier(file, subject.name, settings) if given.add else {}
    rounds: list[list[Row]] = kept.get("rounds", [])
    settings["commits"] = commits_so_far(kept, commit()) if rounds else [commit()]
    once: set[Arm] = set()
    """Arms too slow for a second round."""
    for number in range(count):
        order = [arm for arm in arms if arm not in once]
        turn = number % len(order)
        rounds.append([])
        for arm in [*order[turn:], *order[:turn]]:
            outcome = run(replace(arms[arm], seed=len(rounds) - 1), limits[arm])
            rounds[-1].append(outcome.row)
            print(f"round {number + 1} of {count}: {outcome}", flush=True)
            if not outcome.steps or limits[arm] < given.minutes_limit:
                once.add(arm)
            found = figures(rounds) | {"train.padded_fraction": padded}
            named = {name + suffix: value for name, value in found.items()}
            write_result(file, subject.name, settings, named, rounds=rounds)
    print(f"written to {file}")


if __name__ == "__main__":
    main()
