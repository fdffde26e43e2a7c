"""Does a run take the memory and the time that the plan says?

    python -m benchmarks.plan_accuracy [--quick] [--device cpu|cuda] [--only CASE]... [--run RUN]... [--runs-only]
        [--judge-only] [--out FILE]
    python -m benchmarks.plan_accuracy --fitted [--only CASE]...

Every case trains in a process of its own, on a model of random weights, in micro-batches of one shape: first the plan's
throw-away steps, from which its time is predicted, then more steps, which are timed. Memory is predicted from
config.json alone, and measured from the end of loading on: pages of a weight file that is still mapped can be given
back at any time. On CUDA it is what PyTorch's allocator reserved; the same estimate of the driver's context is in
both. The constants of `planning.memory` were fitted on FITTED; only JUDGED is counted. Budgets from 0.8 to 1.2 times
the measured peak (BUDGETS) are then asked for. A false fit is a budget that the plan would have taken and the case
exceeded, a false refusal one that it would have refused and the case kept with more than the stated margin to spare.

| figure | what |
|---|---|
| `plan.memory_error_p95` | 95th percentile of |predicted - measured| / measured peak |
| `plan.false_fits`, `plan.false_refusals` | of the budgets asked for |
| `plan.step_time_error` | 95th percentile of the same for the seconds of the timed steps |
| `plan.time_error` | largest error of the predicted minutes of the finished runs given with --run |

The file is written after every case. With --only some cases, by their names, are measured and those in the file stay;
with --runs-only none is, and the figure of the runs is added; with --judge-only none is, and those in the file are
judged anew. With --fitted the cases of FITTED are measured, on the CPU, and what each of them says of the constants is
shown: `holes`, how many times the counted activations the heap held, or, where memory is compact, `libraries`, what the
process grew by beyond all that is counted.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.results import Figure, commit, commits_so_far, figure, is_from_here, result_file, write_result
from benchmarks.workload import SHAPES

from vademecum.hardware import Device, Hardware, choose_dtype, probe_hardware
from vademecum.planning.choice import MEMORY_MARGIN, tears_heap
from vademecum.planning.memory import LIBRARIES_BYTES, Quantization, heap_holes
from vademecum.sources import cache_folder

MODELS: dict[str, dict[str, Any]] = {
    **SHAPES,
    "width-256": {
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 8192,
        "tie_word_embeddings": False,
    },
}
"""The published shapes of SmolLM2-135M and TinyLlama-1.1B, and a small one."""
BUDGETS = (0.8, 0.85, 0.9, 0.95, 0.99, 1.0, 1.1, 1.2)
"""Times the measured peak. Closest below it: a prediction that is 6 % too low takes 0.99, and refuses 0.95."""

TRAINED_SHARE = 0.8
"""Of a row, as on MedQuAD: the rest is prompt."""
QUICK_TOKENS = 2048
PROBE_STEPS = 2
TIMED_STEPS = 3


@dataclass(frozen=True)
class Case:
    """One configuration."""

    model: str
    rows: int
    width: int
    dtype: str = "float32"
    checkpointing: bool = False
    quantization: Quantization = "none"
    dropout: float = 0.0
    accumulation: int = 2
    device: Device = "cpu"

    @property
    def compact(self) -> bool:
        """As the plan would have it; only a CPU's heap has holes."""
        return self.device != "cpu" or tears_heap(self.quantization, checkpointing=self.checkpointing)

    @property
    def name(self) -> str:
        """In one word."""
        marks = [self.model, f"{self.rows}x{self.width}", self.dtype]
        marks += ["checkpointing"] * self.checkpointing + [self.quantization] * (self.quantization != "none")
        return " ".join(marks + [f"dropout {self.dropout:g}"] * (self.dropout > 0))


FITTED = (
    Case("width-256", 4, 384),
    Case("width-256", 16, 512),
    Case("width-256", 6, 512, checkpointing=True),
    Case("smollm2-135m", 3, 256),
    Case("smollm2-135m", 1, 768),
    Case("smollm2-135m", 3, 512, checkpointing=True),
    Case("tinyllama", 1, 384),
    Case("width-256", 6, 384, dropout=0.1),
    Case("smollm2-135m", 2, 256, dropout=0.1),
    Case("width-256", 6, 192, dtype="bfloat16"),
    Case("width-256", 6, 192, dtype="bfloat16", checkpointing=True),
    Case("width-256", 6, 192, quantization="int8"),
    Case("width-256", 6, 192, quantization="nf4"),
    Case("width-256", 6, 192, quantization="nf4", checkpointing=True),
    Case("smollm2-135m", 1, 256, quantization="nf4"),
)
"""What the constants were fitted on."""

JUDGED = (
    *(Case("width-256", rows, width) for rows, width in ((1, 512), (8, 256), (8, 512), (8, 1024), (32, 512))),
    Case("width-256", 8, 512, checkpointing=True),
    Case("width-256", 32, 512, checkpointing=True),
    Case("width-256", 8, 512, dropout=0.1),
    Case("width-256", 4, 256, dtype="bfloat16"),
    Case("width-256", 8, 256, dtype="bfloat16"),
    Case("width-256", 4, 256, dtype="bfloat16", checkpointing=True),
    Case("width-256", 4, 256, quantization="int8"),
    Case("width-256", 4, 256, quantization="nf4"),
    Case("width-256", 8, 256, quantization="nf4", checkpointing=True),
    Case("smollm2-135m", 1, 256),
    Case("smollm2-135m", 2, 256),
    Case("smollm2-135m", 4, 256),
    Case("smollm2-135m", 2, 512),
    Case("smollm2-135m", 4, 512),
    Case("smollm2-135m", 2, 1024),
    Case("smollm2-135m", 2, 512, checkpointing=True),
    Case("smollm2-135m", 8, 512, checkpointing=True),
    Case("smollm2-135m", 1, 512, dropout=0.1),
    Case("smollm2-135m", 1, 512, checkpointing=True, dropout=0.1),
    Case("smollm2-135m", 2, 256, quantization="nf4"),
    Case("tinyllama", 1, 256, accumulation=1),
    Case("tinyllama", 1, 512, accumulation=1),
    Case("tinyllama", 1, 512, checkpointing=True, accumulation=1),
    Case("smollm2-135m", 2, 512, dtype="bfloat16"),
    Case("smollm2-135m", 4, 512, dtype="bfloat16"),
    Case("smollm2-135m", 8, 512, dtype="bfloat16", checkpointing=True),
    Case("tinyllama", 1, 512, dtype="bfloat16", accumulation=1),
)
"""What is counted. Where bfloat16 is emulated, only the smallest model is measured in it."""


def is_quick(case: Case) -> bool:
    """Whether it is measured in well under a minute anywhere: in float32, for some machines emulate bfloat16."""
    return (case.model, case.dtype) == ("width-256", "float32") and case.rows * case.width <= QUICK_TOKENS


def is_bearable(case: Case, hardware: Hardware) -> bool:
    """Whether it does not take half an hour, as the larger models do in a number format that is emulated."""
    return case.dtype == "float32" or case.model == "width-256" or choose_dtype(hardware, case.device)[0] == case.dtype


def work(case: Case, folder: Path, timed_steps: int) -> dict[str, float]:
    """In a process of its own: predict, load, probe, train."""
    from vademecum.config import LoraConfig, ModelConfig, TrainConfig
    from vademecum.cuda import shares_heads
    from vademecum.hardware import PeakMemory, compact_memory
    from vademecum.models import attach_adapter, load_base
    from vademecum.planning.memory import TrainingShape, predict_memory, process_bytes
    from vademecum.training import Example, Layout, TrainingData, probe_steps

    trained = int(TRAINED_SHARE * case.width)
    lora = LoraConfig(lora_dropout=case.dropout)
    shape = TrainingShape(
        rows=case.rows,
        width=case.width,
        trained_tokens=case.rows * trained,
        gradient_checkpointing=case.checkpointing,
        quantization=case.quantization,
        compact=case.compact,
        heads_repeated=case.device == "cuda" and not shares_heads(case.dtype),
    )
    began = time.perf_counter()
    predicted = predict_memory(folder, lora, case.dtype, shape, None)
    planning_seconds = time.perf_counter() - began
    process = process_bytes(case.device, case.dtype)
    compact_memory(case.compact and case.device == "cpu")
    model = load_base(folder, ModelConfig(quantization=case.quantization), dtype=case.dtype, device=case.device)
    ids = [token % 8000 + 1 for token in range(case.width)]
    labels = [-100] * (case.width - trained) + ids[case.width - trained :]
    per_step = case.rows * case.accumulation
    examples = [Example(str(row), ids, labels) for row in range(per_step)]
    micro_batches = [list(range(part * case.rows, (part + 1) * case.rows)) for part in range(case.accumulation)]
    layout = Layout(micro_batches, case.accumulation, None, [case.width] * per_step)
    data = TrainingData(examples, [], layout, 0, case.dtype, case.device, 1, 1)
    config = TrainConfig(
        per_device_train_batch_size=case.rows,
        gradient_accumulation_steps=case.accumulation,
        gradient_checkpointing=case.checkpointing,
    )
    adapted = attach_adapter(model, lora, 0)
    with PeakMemory() as peak:
        probed = probe_steps(adapted, data, config, steps=PROBE_STEPS, seed=0)
        timed = probe_steps(adapted, data, config, steps=timed_steps, seed=1) if timed_steps else []
    return {
        "predicted_bytes": process + predicted.training_bytes,
        "measured_bytes": peak.peak_bytes,
        "planning_seconds": planning_seconds,
        "predicted_seconds": sum(step.seconds for step in probed) / len(probed) * timed_steps,
        "measured_seconds": sum(step.seconds for step in timed),
        **{f"predicted.{name}": value for name, value in predicted.model_dump().items()},
    }


def measure(case: Case, folder: Path, timed_steps: int) -> dict[str, float]:
    """Run one case in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.plan_accuracy", "--case", json.dumps(asdict(case))]
    command += ["--folder", str(folder), "--steps", str(timed_steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{case.name}: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def build_checkpoint(model: str, dtype: str, folder: Path) -> Path:
    """A checkpoint of random weights, made once."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    path = folder / f"{model}-{dtype}"
    if not path.is_dir():
        torch.manual_seed(0)
        config = LlamaConfig(**MODELS[model], max_position_embeddings=2048)
        AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).save_pretrained(path)
    return path


def judge(rows: Sequence[dict[str, Any]]) -> dict[str, Figure]:
    """The figures over all judged cases."""
    memory = [abs(row["predicted_bytes"] / row["measured_bytes"] - 1) for row in rows]
    seconds = [abs(row["predicted_seconds"] / row["measured_seconds"] - 1) for row in rows]
    fits = [
        (row["predicted_bytes"] * (1 + MEMORY_MARGIN) / row["measured_bytes"], share)
        for row in rows
        for share in BUDGETS
    ]
    count = len(fits)
    return {
        "plan.memory_error_p95": _percentile(memory),
        "plan.step_time_error": _percentile(seconds),
        "plan.false_fits": figure([sum(least <= share < 1 for least, share in fits)], "budgets", count),
        "plan.false_refusals": figure(
            [sum(1 + MEMORY_MARGIN < share < least for least, share in fits)], "budgets", count
        ),
    }


def _percentile(errors: Sequence[float], share: float = 0.95) -> Figure:
    import numpy as np

    return {
        "value": float(np.quantile(errors, share)), "unit": "fraction", "n": len(errors), "low": min(errors),
        "high": max(errors),
    }  # fmt: skip


def time_errors(runs: Sequence[Path]) -> dict[str, dict[str, float]]:
    """Finished run → its minutes, those that its plan said, and how far these were off as a fraction with its sign."""
    found = {}
    for run in runs:
        told = json.loads((run / "report.json").read_text(encoding="utf-8"))["run"]
        predicted, took = sum(told["predicted_seconds"].values()) / 60, sum(told["seconds"].values()) / 60
        found[run.name] = {"predicted_minutes": predicted, "minutes": took, "error": predicted / took - 1}
    return found


def measure_cases(cases: Sequence[Case], steps: int) -> Iterator[tuple[Case, dict[str, float]]]:
    """Measure one case after the other."""
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            yield case, measure(case, build_checkpoint(case.model, case.dtype, Path(folder)), steps)


def judge_cases(out: Path, cases: Sequence[Case], kept: Mapping[str, Any], steps: int) -> dict[str, Figure]:
    """Measure judged cases beside those that are `kept`, and write what came out after each."""
    rows = {row["case"]: row for row in kept["cases"]}
    commits = commits_so_far(kept, commit()) if rows else [commit()]
    figures: dict[str, Figure] = {}
    for case, found in measure_cases(cases, steps):
        rows[case.name] = {"case": case.name, **found}
        print(f"{case.name}: memory {found['predicted_bytes'] / found['measured_bytes'] - 1:+.1%}", flush=True)
        figures = write_judged(out, rows, {"device": case.device, "timed_steps": steps, "commits": commits})
    return figures


def write_judged(out: Path, rows: Mapping[str, dict[str, Any]], settings: Mapping[str, Any]) -> dict[str, Figure]:
    """Judge the cases that there are, by their names, and write them with what came out."""
    in_order = [rows[case.name] for case in JUDGED if case.name in rows]
    figures = judge(in_order)
    write_result(out, "all", {**settings, "margin": MEMORY_MARGIN, "budgets": BUDGETS}, figures, cases=in_order)
    return figures


def judge_again(out: Path) -> dict[str, Figure]:
    """Judge the cases in a file of results as they are.

    Raises:
        SystemExit: there are none, or they were measured with other versions or elsewhere.
    """
    kept = kept_cases(out)
    if not kept["cases"]:
        raise SystemExit(f"{out} holds no cases")
    settings = {name: value for name, value in kept.items() if name in ("device", "timed_steps")}
    settings["commits"] = commits_so_far(kept)
    return write_judged(out, {row["case"]: row for row in kept["cases"]}, settings)


def fit_cases(cases: Sequence[Case]) -> None:
    """Measure cases of FITTED, and show what each says of the constants."""
    for case, found in measure_cases(cases, 0):
        beyond = found["measured_bytes"] - found["predicted_bytes"]
        if case.compact:
            print(f"{case.name}: libraries {(beyond + LIBRARIES_BYTES[case.dtype]) / 1e6:.0f} MB", flush=True)
        else:
            held = found["predicted.activations_bytes"]
            print(f"{case.name}: holes {heap_holes(case.dropout) * (held + beyond) / held:.2f}", flush=True)


def kept_cases(out: Path, device: Device | None = None) -> dict[str, Any]:
    """What a file of results holds of the cases: `cases`, and how they were measured; `device` is where they must be.

    Raises:
        SystemExit: they were measured with other versions or elsewhere.
    """
    if not out.is_file():
        return {"cases": []}
    told = json.loads(out.read_text(encoding="utf-8"))
    found: dict[str, Any] = told["settings"].get("all", {"cases": [], "device": device})
    if not is_from_here(told) or device not in (None, found.get("device", "cpu")):
        raise SystemExit(f"{out} is of another machine, another device or other versions: measure all cases anew")
    return found


def parse() -> argparse.Namespace:
    """The command line, with the cases that it asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="five small cases, and fewer steps: some four minutes")
    parser.add_argument("--fitted", action="store_true", help="show what the constants are fitted on")
    parser.add_argument("--only", action="append", help="a case, such as 'width-256 8x512 float32'")
    parser.add_argument("--run", type=Path, action="append", default=[], help="a finished run, for plan.time_error")
    parser.add_argument("--runs-only", action="store_true", help="measure no case")
    parser.add_argument("--judge-only", action="store_true", help="measure no case, and judge those in the file anew")
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path)
    for hidden in ("--case", "--folder", "--steps"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    given = parser.parse_args()
    there = [case for case in (FITTED if given.fitted else JUDGED) if not given.quick or is_quick(case)]
    if unknown := set(given.only or ()) - {case.name for case in there}:
        parser.error(f"no such case: {', '.join(sorted(unknown))}; there are: {', '.join(case.name for case in there)}")
    given.cases = [case for case in there if given.only is None or case.name in given.only]
    return given


def main() -> None:
    """Measure the cases and the runs, and show what came out."""
    given = parse()
    if given.case:
        print(json.dumps(work(Case(**json.loads(given.case)), Path(given.folder), int(given.steps))))
        return
    if given.fitted:
        fit_cases(given.cases)
        return
    out = given.out or result_file("plan_accuracy", quick=given.quick)
    figures: dict[str, Figure] = {}
    if given.judge_only:
        figures = judge_again(out)
    elif not given.runs_only:
        hardware = probe_hardware(wanted=given.device or "auto", rates_cache=cache_folder())
        device: Device = given.device or hardware.device
        kept = kept_cases(out, device) if given.only else {"cases": []}
        cases = [replace(case, device=device) for case in given.cases]
        cases = [case for case in cases if is_bearable(case, hardware)]
        figures = judge_cases(out, cases, kept, 2 if given.quick else TIMED_STEPS)
    if given.run:
        errors = time_errors(given.run)
        found = {"plan.time_error": _percentile([abs(run["error"]) for run in errors.values()], share=1)}
        write_result(out, "runs", {}, found, runs=errors)
        figures |= found
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
