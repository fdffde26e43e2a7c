"""Where does the time of a training step go?

    python -m benchmarks.profile_step [--quick] [--model smollm2|tinyllama|FOLDER] [--random] [--steps N]
        [--micro-batch N] [--device cpu|cuda] [--out FILE]

The arm `grouped` of `train_speed` under PyTorch's profiler, after a step that warms up: an operator's own time, without
that of the operators it calls, summed by kind; on CUDA that of the kernels that it launched. `profile.share.KIND`
is its share of all operators' time; `profile.share.outside` is the wall time in which no operator ran, as a share of
the wall time. A product is thin when its shortest side is that of the adapter's rank. Whatever else works on rows as
wide as the vocabulary is the loss: it has no operator of its own (training/fused.py).
"""

import argparse
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.results import Figure, figure, result_file, write_result
from benchmarks.training_block import Begun, Block, Message, Step, train_with_ours
from benchmarks.workload import find_subject, find_workload

from vademecum.config import LoraConfig
from vademecum.hardware import choose_dtype, probe_hardware
from vademecum.sources import cache_folder

KINDS = {
    "attention": ("scaled_dot_product", "flash_attention", "efficient_attention"),
    "filling": ("fill_", "zero_"),
    "copying": ("copy_", "cat", "index", "clone", "embedding", "scatter", "gather"),
    "elementwise": ("mul", "add", "sub", "div", "neg", "silu", "pow", "rsqrt", "mean", "sum", "sigmoid", "sqrt", "exp"),
}
"""Kind → parts of the names of its operators; the first that fits counts."""
QUICK_LENGTH = 256
"""A quick run takes only rows of at most so many tokens."""
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::mkldnn_linear")


def kind_of(name: str, shapes: list[list[int]], rank: int, vocabulary: int) -> str:
    """What an operator's time is counted as, by the shapes of its inputs; a number has the shape []."""
    if any(name.startswith(product) for product in PRODUCTS):
        sides = [side for shape in shapes for side in shape[-2:] if len(shape) > 1]
        return "thin products" if sides and min(sides) <= rank else "large products"
    if any(shape[-1:] == [vocabulary] for shape in shapes):
        return "loss"
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "other")


def profile(block: Block) -> dict[str, Figure]:
    """The shares of a block's timed steps."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    cuda = block.device == "cuda"
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if cuda else [ProfilerActivity.CPU]
    watched = profiler(activities=activities, record_shapes=True)
    began, walls, steps = 0.0, [], 0

    def heed(message: Message) -> None:
        nonlocal began, steps
        if isinstance(message, Step):
            steps += 1
            if steps == block.steps:
                walls.append(time.perf_counter() - began)
                watched.stop()
        elif isinstance(message, Begun) and not began:  # the step that warms up is done
            watched.start()
            began = time.perf_counter()

    train_with_ours(block, heed)
    rank, vocabulary = LoraConfig().r, block.subject.vocabulary
    spent: Counter[str] = Counter()
    for event in watched.key_averages(group_by_input_shape=True):
        if event.device_type.name == "CPU":  # CUDA's kernels are in the list once more, on their own
            microseconds = event.self_device_time_total if cuda else event.self_cpu_time_total
            spent[kind_of(event.key, event.input_shapes, rank, vocabulary)] += microseconds / 1e6
    total = sum(spent.values())
    shares = {f"profile.share.{kind.replace(' ', '_')}": seconds / total for kind, seconds in spent.items()}
    shares["profile.share.outside"] = max(0.0, 1 - total / walls[0])
    return {name: figure([share], "ratio", steps) for name, share in shares.items()}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one step of short rows, another file")
    parser.add_argument("--model", default="smollm2", help="smollm2, tinyllama (at random) or a checkpoint's folder")
    parser.add_argument("--random", action="store_true", help="SmolLM2's shape with random weights")
    parser.add_argument("--steps", type=int, help="default: 3; quick: 1")
    parser.add_argument("--micro-batch", type=int, help="examples; default: 2, and 64 on CUDA")
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    """Profile and write."""
    given = parse()
    subject = find_subject(given.model, random=given.random)
    hardware = probe_hardware(rates_cache=cache_folder())
    device = given.device or hardware.device
    dtype, _ = choose_dtype(hardware, device)
    rows, steps = given.micro_batch or (64 if device == "cuda" else 2), given.steps or (1 if given.quick else 3)
    workload = find_workload(subject, longest=QUICK_LENGTH if given.quick else None)
    length = QUICK_LENGTH if given.quick else 512
    block = Block("grouped", subject, workload, dtype, device, steps, 0, rows, length)
    figures = profile(block)
    for name, found in sorted(figures.items(), key=lambda item: -item[1]["value"]):
        print(f"{name:32} {found['value']:6.1%}", flush=True)
    suffix = ".tinyllama" if subject.name == "tinyllama" else ""
    settings: dict[str, Any] = {"device": device, "dtype": dtype, "micro_batch": rows, "steps": steps}
    named = {f"{name}{suffix}": value for name, value in figures.items()}
    write_result(given.out or result_file("profile", quick=given.quick), subject.name, settings, named)


if __name__ == "__main__":
    main()
