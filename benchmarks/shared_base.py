"""How much faster do eight variants train together on one frozen base than one after another, and to the same end?

    python -m benchmarks.shared_base [--quick] [--model smollm2|tinyllama|FOLDER] [--random] [--members N] [--rounds N]
        [--steps N] [--micro-batch N] [--accumulation N] [--device cpu|cuda] [--out FILE]

The variants differ in the learning rate alone (`rates`: the same rows at the same time), or in the seed as well
(`seeds`: another order of the rows and another start, so that micro-batches have unlike shapes). In a round each of the
two is trained `alone`, one variant after another, and `together`, in an order that rotates; the base is loaded once for
all. Time runs from the end of a training's first step to the end of its last, so neither loading nor making optimizers
counts: what else is saved is told by `shared_base.seconds_to_load`, once per variant.

`shared_base.speedup` is the seconds alone over the seconds together, of `rates`; that of `seeds` ends in `.seeds`.
`loss_difference` (nats) and `update_difference` (norm of the difference over the norm of the update) are the largest of
any variant, always in float32: another round computes them where another number format is the fastest.

After every round benchmarks/results/shared_base-MACHINE.json is written.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.results import Figure, figure, result_file, write_result
from benchmarks.workload import Subject, find_subject, find_workload

from vademecum.config import LoraConfig
from vademecum.config.sections import TrainConfig
from vademecum.hardware import Device, choose_dtype, probe_hardware
from vademecum.models import attach_adapter
from vademecum.planning.choice import HOST_SLOTS
from vademecum.sources import cache_folder
from vademecum.stopping import Stop
from vademecum.training import Example, TrainingData, lay_out, train
from vademecum.training.adaptations import Adaptation
from vademecum.training.shared_base import Member, SharedAdapters, Sharing, train_together

if TYPE_CHECKING:
    from torch import Tensor

Vary = Literal["rates", "seeds"]
Arm = Literal["alone", "together"]
NEVER = 1_000_000
QUICK_LENGTH = 256


@dataclass
class Kept:
    """A sink that keeps rows and times, and lets nothing go to disk but the last checkpoint."""

    checkpoints: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    stop: Stop = field(default_factory=Stop)

    def done(self) -> int:
        """Steps so far."""
        return len(self.rows)

    def seconds(self) -> float:
        """The clock."""
        return time.perf_counter()

    def adaptations(self) -> list[Adaptation]:
        """None; there are no limits."""
        return []

    def adapt(self, adaptation: Adaptation) -> None:
        """There is nothing to halve for."""
        raise RuntimeError(adaptation.in_words())

    def say(self, text: str) -> None:
        """Show it."""
        print(text, flush=True)

    def truncate(self, step: int) -> None:
        """Nothing is gone on from."""

    def step(self, row: dict[str, Any]) -> None:
        """Keep it."""
        self.rows.append(row)

    def timing(self, row: dict[str, Any]) -> None:
        """Keep it."""
        self.times.append(row["seconds"])


@dataclass(frozen=True)
class Task:
    """What is trained, and on what."""

    examples: list[Example]
    members: int
    steps: int
    """Timed ones; one more warms up."""
    micro_batch: int
    accumulation: int
    device: Device
    dtype: str

    def member(self, vary: Vary, number: int, folder: Path) -> Member:
        """One of the variants."""
        config = TrainConfig(
            max_length=max(one.length for one in self.examples),
            per_device_train_batch_size=self.micro_batch,
            gradient_accumulation_steps=self.accumulation,
            max_steps=self.steps + 1,
            learning_rate=5e-4 * 1.3**number,
        )
        seed = number if vary == "seeds" else 0
        data = TrainingData(
            examples=self.examples,
            validation=[],
            layout=lay_out([one.length for one in self.examples], config, seed=seed),
            pad_id=0,
            dtype=self.dtype,
            device=self.device,
            save_steps=NEVER,
            eval_steps=NEVER,
        )
        return Member(config, data, seed, Kept(folder))


@dataclass
class End:
    """What an arm came to."""

    seconds: float
    losses: list[list[float]]
    """Of every variant and step."""
    updates: list["Tensor"]
    """Of every variant: its weights after training less those before, end to end, on the CPU."""


def measure(base: Any, subject: Subject, task: Task, vary: Vary, arm: Arm) -> End:  # noqa: ANN401  transformers'
    """Train all variants in one way; the base is as before afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        members = [task.member(vary, number, Path(folder) / str(number)) for number in range(task.members)]
        if arm == "together":
            adapters = SharedAdapters(base, LoraConfig(), [one.seed for one in members])
            before = [flat(adapters.put_in(number)) for number in range(task.members)]
            sharing = Sharing(save_rounds=NEVER, host_slots=HOST_SLOTS[task.device])
            train_together(adapters, members, Path(folder) / "together", sharing)
            updates = [flat(adapters.put_in(number)) - start for number, start in enumerate(before)]
            adapters.model.unload()
        else:
            updates = []
            for one in members:
                model = attach_adapter(base, LoraConfig(), one.seed)
                start = flat(model)
                train(model, subject.tokenizer, one.data, one.config, one.sink, one.seed)
                updates.append(flat(model) - start)
                model.unload()
    sinks = [one.sink for one in members if isinstance(one.sink, Kept)]
    spans = [sink.times[-1] - sink.times[0] for sink in sinks]
    if arm == "together":
        spans = [max(sink.times[-1] for sink in sinks) - max(sink.times[0] for sink in sinks)]
    return End(sum(spans), [[row["loss"] for row in sink.rows] for sink in sinks], updates)


def flat(model: Any) -> "Tensor":  # noqa: ANN401  PEFT's
    """All weights of an adapter, end to end."""
    import torch

    weights = [weight.detach().cpu().flatten() for name, weight in model.named_parameters() if "lora_" in name]
    return torch.cat(weights)


def differences(alone: End, together: End) -> tuple[float, float]:
    """Of the losses, and of the updates; the largest of any variant."""
    losses = [
        abs(one - other)
        for ours, theirs in zip(together.losses, alone.losses, strict=True)
        for one, other in zip(ours, theirs, strict=True)
    ]
    pairs = zip(together.updates, alone.updates, strict=True)
    return max(losses), max(float((ours - theirs).norm() / theirs.norm()) for ours, theirs in pairs)


def run_round(base: Any, subject: Subject, task: Task, number: int) -> dict[Vary, dict[Arm, End]]:  # noqa: ANN401
    """Both ways of both kinds, the first in turn."""
    arms: list[Arm] = ["alone", "together"] if number % 2 == 0 else ["together", "alone"]
    found: dict[Vary, dict[Arm, End]] = {}
    kinds: list[Vary] = ["rates", "seeds"]
    for vary in kinds:
        found[vary] = {arm: measure(base, subject, task, vary, arm) for arm in arms}
        seconds = ", ".join(f"{arm} {end.seconds:.2f} s" for arm, end in found[vary].items())
        print(f"round {number + 1}, {task.dtype}, {vary}: {seconds}", flush=True)
    return found


def figures(
    rounds: Sequence[dict[Vary, dict[Arm, End]]],
    exact: Sequence[dict[Vary, dict[Arm, End]]],
    task: Task,
    loading: float,
) -> dict[str, Figure]:
    """What the rounds done so far say; `exact` are those in float32, `loading` the seconds that the base took."""
    found = {"shared_base.seconds_to_load": figure([loading], "s", 1)}
    n = len(rounds) * task.members * task.steps
    kinds: list[tuple[Vary, str]] = [("rates", ""), ("seeds", ".seeds")]
    for vary, suffix in kinds:
        ends = [each[vary] for each in rounds]
        ratios = [end["alone"].seconds / end["together"].seconds for end in ends]
        found[f"shared_base.speedup{suffix}"] = figure(ratios, "ratio", n)
        arms: list[Arm] = ["alone", "together"]
        for arm in arms:
            paces = [end[arm].seconds / task.steps for end in ends]
            found[f"shared_base.seconds_per_step.{arm}{suffix}"] = figure(paces, "s for all variants", n)
        pairs = [differences(each[vary]["alone"], each[vary]["together"]) for each in exact]
        if pairs:
            count = len(pairs) * task.members * (task.steps + 1)
            found[f"shared_base.loss_difference{suffix}"] = figure([one for one, _ in pairs], "nats", count)
            updates = [other for _, other in pairs]
            found[f"shared_base.update_difference{suffix}"] = figure(updates, "ratio", len(pairs) * task.members)
    return found


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of two steps, short rows, another file")
    parser.add_argument("--model", default="smollm2", help="smollm2, tinyllama (at random) or a checkpoint's folder")
    parser.add_argument("--random", action="store_true", help="SmolLM2's shape with random weights")
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--rounds", type=int, help="default: 3")
    parser.add_argument("--steps", type=int, help="timed steps of every variant; default: 19, after one that warms up")
    parser.add_argument("--micro-batch", type=int, help="examples; default: 2, and 4 on CUDA")
    parser.add_argument("--accumulation", type=int, default=1, help="micro-batches per step")
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    """Run the rounds, writing the result after each."""
    given = parse()
    subject = find_subject(given.model, random=given.random)
    hardware = probe_hardware(rates_cache=cache_folder())
    device: Device = given.device or hardware.device
    length = QUICK_LENGTH if given.quick else 512
    workload = find_workload(subject, longest=length)
    task = Task(
        examples=workload.examples(subject, TrainConfig(max_length=length)),
        members=given.members,
        steps=given.steps or (2 if given.quick else 19),
        micro_batch=given.micro_batch or (4 if device == "cuda" else 2),
        accumulation=given.accumulation,
        device=device,
        dtype=choose_dtype(hardware, device)[0],
    )
    began = time.perf_counter()
    base = subject.load(task.dtype, device)
    loading = time.perf_counter() - began
    count = given.rounds or (1 if given.quick else 3)
    file = given.out or result_file("shared_base", quick=given.quick)
    settings = {"quick": given.quick, "rows": workload.name, "weights": "random" if subject.folder is None else "real"}
    settings |= {name: value for name, value in vars(task).items() if name != "examples"}
    suffix = ".tinyllama" if subject.name == "tinyllama" else ""

    def write(rounds: list[dict[Vary, dict[Arm, End]]], exact: list[dict[Vary, dict[Arm, End]]]) -> None:
        found = figures(rounds, exact, task, loading)
        write_result(file, subject.name, settings, {name + suffix: value for name, value in found.items()})

    rounds: list[dict[Vary, dict[Arm, End]]] = []
    for number in range(count):
        rounds.append(run_round(base, subject, task, number))
        write(rounds, rounds if task.dtype == "float32" else [])
    if task.dtype != "float32":
        exact = replace(task, dtype="float32")
        write(rounds, [run_round(subject.load("float32", device), subject, exact, 0)])
    print(f"written to {file}")


if __name__ == "__main__":
    main()
