"""What does a lost worker cost a study on Ray, and what would a study of 1,000 trials cost?

    python -m benchmarks.scaling [--quick] [--trials N] [--corpus FILE] [--out FILE]

**Ray.** The same study of a tiny checkpoint is run three times from nothing: by the local executor, on a Ray cluster of
two nodes with a core each, and on such a cluster whose first worker is killed (SIGKILL) once its trial has written a
checkpoint. `scaling.ray.completed` counts the trials of the last that came to an end, `scaling.ray.equal` those whose
loss in every step is that of the local executor, `scaling.ray.seconds_lost` what the kill cost. Trials last seconds, so
the seconds of Ray itself weigh more here than in any real study.

**A thousand trials.** `vade plan benchmarks/studies/thousand.toml` forecasts it from the rate of matrix products on
this machine: `scaling.thousand.hours_on.N` for N machines like this one.
"""

import argparse
import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.results import Figure, figure, result_file, write_result

from vademecum.stages import Silence
from vademecum.study import Setting, StudyConfig, forecast_study, load_study, make_executor, run_study
from vademecum.study.executors import Executor
from vademecum.testing import build_tiny_checkpoint

MACHINES = (1, 8, 64)
THOUSAND = Path(__file__).with_name("studies") / "thousand.toml"
TINY = (
    "corpus.source=sample", "corpus.drop_duplicates=true", "split.strategy=grouped", "split.train=0.62",
    "split.validation=0.08", "split.test=0.3", "model.device=cpu", "model.dtype=float32", "train.max_length=512",
    "train.max_cut_share=1.0", "train.eval_pairs=4", "train.max_pairs=120", "train.save_steps=5",
    "lora.lora_dropout=0", "train.gradient_checkpointing=false", "generate.max_new_tokens=12",
    "generate.systems=['base', 'copy', 'tuned']", "generate.test_pairs=24", "generate.batch_size=24",
    "evaluate.resamples=200",
)  # fmt: skip
STORE_BYTES = 80 * 2**20


def tiny_study(checkpoint: Path, trials: int) -> StudyConfig:
    """`trials` seeds of one baseline."""
    settings = (f"model.name={checkpoint}", *TINY)
    return StudyConfig.model_validate(
        {"baseline": "paper", "set": settings, "baseline_seeds": tuple(range(trials)), "reference_steps": 9843}
    )


@contextmanager
def two_nodes() -> Iterator[str]:
    """The address of a Ray cluster of two nodes with a core each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(**node)
    try:
        yield str(cluster.address)
    finally:
        cluster.shutdown()


def kill_first_worker(folder: Path, killed: list[str]) -> None:
    """Wait for the first checkpoint of any trial, then kill the Ray worker above its process."""
    import psutil

    while not (found := list(folder.glob("trials/*/work/train/checkpoints/*/whole.json"))):
        time.sleep(0.02)
    trial = found[0].relative_to(folder).parts[1]
    program = psutil.Process(int((folder / "trials" / trial / ".lock").read_text(encoding="utf-8").split()[1]))
    worker = program.parent().parent()
    worker.send_signal(signal.SIGKILL)
    killed.append(trial)


def losses(folder: Path) -> dict[str, list[float]]:
    """Trial → its loss in every step."""
    found = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    return {row["name"]: [loss for _, loss in row["losses"]] for row in found["trials"] if row["status"] == "completed"}


def timed(study: StudyConfig, folder: Path, executor: Executor, at_once: int) -> float:
    """Seconds of a whole study."""
    began = time.perf_counter()
    run_study(study, folder, Setting(executor, Silence(), offline=True, at_once=at_once))
    return time.perf_counter() - began


def measure_ray(trials: int) -> dict[str, Figure]:
    """The three studies."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        (root / "base").mkdir()
        study = tiny_study(build_tiny_checkpoint(root / "base"), trials)
        seconds = {"local": timed(study, root / "local", make_executor("local"), at_once=2)}
        print(f"local: {seconds['local']:.0f} s", flush=True)
        killed: list[str] = []
        for name in ("ray", "ray-killed"):
            with two_nodes() as address:
                if name == "ray-killed":
                    threading.Thread(target=kill_first_worker, args=(root / name, killed), daemon=True).start()
                seconds[name] = timed(study, root / name, make_executor(f"ray:{address}"), at_once=2)
            print(f"{name}: {seconds[name]:.0f} s", flush=True)
        expected, found = losses(root / "local"), losses(root / "ray-killed")
    if not killed:
        raise SystemExit("no worker was killed: the trials ended before one was found")
    equal = sum(found.get(trial) == rows for trial, rows in expected.items())
    return {
        "scaling.ray.completed": figure([len(found)], "trials", trials),
        "scaling.ray.killed": figure([len(killed)], "workers", trials),
        "scaling.ray.equal": figure([equal], "trials", trials),
        **{f"scaling.seconds.{name}": figure([value], "s", trials) for name, value in seconds.items()},
        "scaling.ray.seconds_lost": figure([seconds["ray-killed"] - seconds["ray"]], "s", 1),
    }


def forecast_thousand(corpus: str | None) -> dict[str, Figure]:
    """By the planner's own numbers."""
    overrides = [f"corpus.source={corpus}"] if corpus else []
    sizing = forecast_study(load_study(THOUSAND, overrides), Silence(), offline=False)
    count = len(sizing.minutes)
    each = list(sizing.minutes.values())
    print(f"{count} trials: {sizing.total_minutes / 60:.0f} hours on one machine", flush=True)
    return {
        "scaling.thousand.trials": figure([count], "trials", count),
        "scaling.thousand.minutes_per_trial": figure(each, "min", count),
        **{
            f"scaling.thousand.hours_on.{machines}": figure([sizing.minutes_on(machines) / 60], "h", count)
            for machines in MACHINES
        },
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three trials, and no forecast")
    parser.add_argument("--trials", type=int, help="default: 6")
    parser.add_argument("--corpus", help="MedQuAD as a file; default: it is fetched")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measure, forecast, write."""
    given = parse()
    trials = given.trials or (3 if given.quick else 6)
    file = given.out or result_file("scaling", quick=given.quick)
    write_result(file, "ray", {"trials": trials}, measure_ray(trials))
    if not given.quick:
        write_result(file, "thousand", {"study": THOUSAND.name}, forecast_thousand(given.corpus))


if __name__ == "__main__":
    main()
