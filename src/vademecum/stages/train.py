"""train: pairs.jsonl, splits.jsonl, plan.json → training.jsonl, training.json, and adapter/ where it has an effect."""

import json
import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vademecum.config import BudgetConfig, RunConfig
from vademecum.config.sections import System, TrainConfig
from vademecum.errors import RunError, UntrainedError
from vademecum.files import publish_folder, write_json
from vademecum.hardware import compact_memory, limit_cuda_memory, limit_libraries, out_of_memory_told
from vademecum.models import attach_adapter, save_adapter
from vademecum.planning import Plan, memory_limit
from vademecum.runs import Run
from vademecum.stages.material import Base, Pairs, model_digest, training_rows
from vademecum.stages.road import Road, Stage
from vademecum.stopping import Stop
from vademecum.training import (
    Adaptation,
    DismissedError,
    TrainingData,
    TrainingSummary,
    lay_out,
    shard_base,
    train,
)

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

IF_FULL = (
    "look with nvidia-smi whether others hold its memory, and give the same command again: it goes on after the last "
    "checkpoint; or set budget.memory_gb below what is free, and give --force plan"
)
"""Where a GPU has no room left for the model, or for the smallest micro-batch."""
ADAPTER = ("adapter/adapter_model.safetensors", "adapter/adapter_config.json")


class RunSink:
    """Where the trainer's rows go: training.jsonl and timing.jsonl; checkpoints and changes of course into the stage's
    own folder."""

    def __init__(self, road: Road, folder: Path, steps: int, checkpoints: Path | None = None) -> None:
        """Of a stage with its own `folder`; `checkpoints` is where those of a joint training lie."""
        self.road, self.folder = road, folder
        self._checkpoints = checkpoints or folder / "checkpoints"
        changes = [one for one in self.adaptations() if one.change == "steps_cut"]
        self._steps = changes[-1].after if changes else steps
        # Without checkpoints the clock is another training's.
        times = self._rows("timing.jsonl") if self.checkpoints.is_dir() else []
        self._began = time.monotonic() - max((row["seconds"] for row in times), default=0.0)

    @property
    def checkpoints(self) -> Path:
        """Folder of the Trainer's checkpoints."""
        return self._checkpoints

    @property
    def stop(self) -> Stop:
        """The road's."""
        return self.road.stop

    def done(self) -> int:
        """How many steps, from the first on, stand in training.jsonl."""
        steps = [row["step"] for row in self._rows("training.jsonl") if row["step"]]
        return next((count for count, step in enumerate(steps) if step != count + 1), len(steps))

    def seconds(self) -> float:
        """Time worked, all sittings together, and what was lost by a kill."""
        return time.monotonic() - self._began

    def adaptations(self) -> list[Adaptation]:
        """The changes of course so far."""
        file = self.folder / "adaptations.json"
        rows = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
        return [Adaptation.model_validate(row) for row in rows]

    def adapt(self, adaptation: Adaptation) -> None:
        """Training changes its course."""
        changes = [*self.adaptations(), adaptation]
        write_json(self.folder / "adaptations.json", [one.model_dump() for one in changes])
        if adaptation.change == "steps_cut":
            self._steps = adaptation.after

    def say(self, text: str) -> None:
        """Pass a word on to whoever watches."""
        self.road.observer.say(text)

    def step(self, row: dict[str, Any]) -> None:
        """One optimizer step is done."""
        self.road.run.append_line("training.jsonl", row)
        self.road.observer.progress(row["step"], self._steps, "steps")

    def timing(self, row: dict[str, Any]) -> None:
        """The clock after a step, all sittings together."""
        self.road.run.append_line("timing.jsonl", row)

    def truncate(self, step: int) -> None:
        """Forget what came after a step that training goes back to; with -1 everything."""
        for name in ("training.jsonl", "timing.jsonl"):
            rows = [row for row in self._rows(name) if row["step"] <= step]
            self.road.run.write_lines(name, rows)

    def _rows(self, name: str) -> list[dict[str, Any]]:
        return self.road.run.read_lines(name) if self.road.run.file(name).is_file() else []


@dataclass(frozen=True)
class SilentSink:
    """For the ranks that write nothing: what they are asked, rank 0 answers."""

    checkpoints: Path
    stop: Stop = field(default_factory=Stop)

    def done(self) -> int:
        """Not asked."""
        return 0

    def seconds(self) -> float:
        """Not asked."""
        return 0.0

    def adaptations(self) -> list[Adaptation]:
        """Not asked."""
        return []

    def adapt(self, adaptation: Adaptation) -> None:
        """Rank 0 writes it."""

    def say(self, text: str) -> None:
        """Rank 0 says it."""

    def step(self, row: dict[str, Any]) -> None:
        """Rank 0 writes it."""

    def timing(self, row: dict[str, Any]) -> None:
        """Rank 0 writes it."""

    def truncate(self, step: int) -> None:
        """Rank 0 does."""


@dataclass(frozen=True)
class Prepared:
    """A training of a run, ready but for the model."""

    config: RunConfig
    """With what the plan chose."""
    plan: Plan
    base: Base
    data: TrainingData
    settings: TrainConfig
    """With the plan's steps and warmup."""

    @property
    def seed(self) -> int:
        """Of the adapter's start, the order of rows and dropout."""
        return self.config.training_seed

    def load(self) -> "PreTrainedModel":
        """The base model, as it is trained on, with the machine set to train on it."""
        return self._load(self.plan.device)

    def load_adapted(self) -> "PeftModel":
        """The base model with a fresh adapter; where it is kept in parts, this process's. In a group of processes."""
        parts = self.settings.dp_shard_size > 1
        model = attach_adapter(self._load("cpu" if parts else self.plan.device), self.config.lora, self.seed)
        if parts:
            shard_base(model, self.plan.device)
        return model

    def _load(self, device: str) -> "PreTrainedModel":
        limit_libraries()
        compact_memory(self.plan.settings.compact)
        if self.plan.device == "cuda":
            plan = self.plan
            limit_cuda_memory(cuda_limit(self.config.budget, plan.memory_limit_bytes, plan.process_bytes))
        return self.base.load(self.config.model, device=device, dtype=self.plan.dtype)


def prepare_training(road: Road) -> Prepared:
    """Build the rows and lay them out for just the steps that the plan decided.

    Raises:
        RunError: the plan was made for another number of processes.
    """
    plan = road.run.read_record("plan.json", Plan)
    if plan.processes != road.ranks.size:
        raise RunError(
            f"the plan is for {plan.processes} processes, and {road.ranks.size} were started",
            hint=f"start {plan.processes} (with torchrun --nproc-per-node, if more than one), or give --force plan",
        )
    config = plan.apply(road.config)
    pairs, base = Pairs.read(road), Base.locate(road)
    base.check(plan)
    examples, validation = training_rows(pairs, base, config)
    lengths = [example.length for example in examples]
    layout = lay_out(lengths, config.train, seed=config.training_seed, steps=plan.optimizer_steps)
    data = TrainingData(
        examples=examples,
        validation=validation,
        layout=replace(layout, processes=plan.processes),
        pad_id=base.tokenizer.pad_token_id,
        dtype=plan.dtype,
        device=plan.device,
        save_steps=plan.save_steps,
        eval_steps=plan.eval_steps,
        ranks=road.ranks,
    )
    settings = config.train.model_copy(update={"max_steps": plan.optimizer_steps, "warmup_steps": plan.warmup_steps})
    return Prepared(config, plan, base, data, settings)


@out_of_memory_told("training", IF_FULL)
def run_training(road: Road, folder: Path) -> None:
    """Train the adapter."""
    started = time.monotonic()
    prepared = prepare_training(road)
    plan, budget = prepared.plan, road.config.budget
    preparing = time.monotonic() - started
    sink = RunSink(road, folder, plan.optimizer_steps)  # its clock begins here, so loading the model counts
    # Beside the checkpoints, where the Trainer would put them, they would go when training is finished.
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(road.run.file("trackers"))
    road.ranks.call_up(checkpoints=str(sink.checkpoints), device=plan.device)
    with road.ranks.together(plan.device):
        model = prepared.load_adapted()
        data = replace(
            prepared.data,
            memory_limit_bytes=watched_bytes(budget, plan, road.ranks.local_size),
            time_limit_seconds=_time_limit(budget, plan, preparing=preparing),
        )
        summary = train(model, prepared.base.tokenizer, data, prepared.settings, sink, prepared.seed)
    publish(road, folder, summary, model, prepared.base)


def help_train(road: Road) -> None:
    """Be one of the processes that rank 0, which walks the same road, trains with; return when it needs no more help.

    What rank 0 has written before is read, and nothing of the run is written but the own random state in checkpoints.
    """
    order = road.ranks.wait_for_order()
    if order is None:
        return
    prepared = prepare_training(road)
    limit = watched_bytes(road.config.budget, prepared.plan, road.ranks.local_size)
    data = replace(prepared.data, memory_limit_bytes=limit)
    with suppress(DismissedError), road.ranks.together(order["device"]):
        model = prepared.load_adapted()
        sink = SilentSink(Path(order["checkpoints"]))
        train(model, prepared.base.tokenizer, data, prepared.settings, sink, prepared.seed)


def publish(road: Road, folder: Path, summary: TrainingSummary, model: "PeftModel", base: Base) -> None:
    """Write training.json, and the adapter where it is worth something."""
    if summary.status == "completed":
        finished = folder / "adapter"
        finished.mkdir(exist_ok=True)
        save_adapter(model, finished, base=base.files)
        publish_folder(finished, road.run.file("adapter"))
    else:
        road.observer.say(f"{summary.status}: {summary.remark}; the tuned system is left out")
        shutil.rmtree(road.run.file("adapter"), ignore_errors=True)  # of an earlier training
    road.run.write_json("training.json", summary.model_dump(mode="json"))


def watched_bytes(budget: BudgetConfig, plan: Plan, processes: int) -> int | None:
    """What the process may hold, that training and answering watch: the budget, or what is free as this sitting begins.
    On a GPU the allocator does."""
    if plan.device != "cpu":
        return None
    return memory_limit(budget, "cpu", processes).bytes


def cuda_limit(budget: BudgetConfig, limit_bytes: int, process_bytes: int) -> int | None:
    """What the budget leaves for tensors on a CUDA device, beside the context."""
    return None if budget.memory_gb is None else limit_bytes - process_bytes


def _time_limit(budget: BudgetConfig, plan: Plan, preparing: float) -> float | None:
    """What is left of the budget by answering, and by what came before the clock of training began."""
    if budget.minutes is None:
        return None
    others = sum(seconds for stage, seconds in plan.predicted_seconds.items() if stage != "train")
    return budget.minutes * 60 - others - preparing


def scored_systems(run: Run, config: RunConfig) -> tuple[System, ...]:
    """The systems that can answer: all of them, but for `tuned` where training gave nothing worth scoring."""
    return tuple(name for name in config.generate.systems if name != "tuned" or has_adapter(run))


def has_adapter(run: Run) -> bool:
    """Whether there was a training, and it gave an adapter that has an effect."""
    return run.file("training.json").is_file() and _summary(run).status == "completed"


def check_trained(run: Run) -> None:
    """Say at the end what a missing tuned system comes from.

    Raises:
        UntrainedError: training diverged, or changed nothing.
    """
    found = _summary(run)
    if found.status == "diverged":
        raise UntrainedError(
            f"training diverged after {found.optimizer_steps} optimizer steps: {found.remark}. The tuned model has no "
            "scores; the other systems have",
            hint="lower train.learning_rate, or set model.dtype to float32 or bfloat16, and give --force train",
        )
    if found.status == "unchanged":
        raise UntrainedError(
            f"training changed nothing: {found.remark}. The tuned model is the base model and has no scores of its own",
            hint="train longer or with a larger train.learning_rate, and give --force train",
        )


def _summary(run: Run) -> TrainingSummary:
    return run.read_record("training.json", TrainingSummary)


TRAIN = Stage(
    name="train",
    settings=("seed", "prompt", "model", "lora", "train", "budget"),
    reads=("pairs.jsonl", "splits.jsonl", "plan.json"),
    writes=("training.jsonl", "training.json"),
    may_write=ADAPTER,
    work=run_training,
    outside=model_digest,
    precious=True,
)
