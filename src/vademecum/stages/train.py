"""train: pairs.jsonl, splits.jsonl, plan.json → adapter/, training.jsonl, training.json."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vademecum.files import publish_folder
from vademecum.models import attach_adapter, save_adapter
from vademecum.planning import Plan
from vademecum.stages.material import Base, Pairs, model_digest, subset
from vademecum.stages.road import Road, Stage
from vademecum.stopping import Stop
from vademecum.training import TrainingData, build_examples, lay_out, train

ADAPTER = ("adapter/adapter_model.safetensors", "adapter/adapter_config.json")


@dataclass
class RunSink:
    """Where the trainer's rows go: training.jsonl and timing.jsonl, checkpoints into the stage's own folder."""

    road: Road
    folder: Path
    steps: int
    _earlier_seconds: float = field(default=0.0, init=False)

    @property
    def checkpoints(self) -> Path:
        """Folder of the Trainer's checkpoints."""
        return self.folder / "checkpoints"

    @property
    def stop(self) -> Stop:
        """The road's."""
        return self.road.stop

    def done(self) -> int:
        """How many steps, from the first on, stand in training.jsonl."""
        steps = [row["step"] for row in self._rows("training.jsonl")]
        return next((count for count, step in enumerate(steps) if step != count + 1), len(steps))

    def say(self, text: str) -> None:
        """Pass a word on to whoever watches."""
        self.road.observer.say(text)

    def step(self, row: dict[str, Any]) -> None:
        """One optimizer step is done."""
        self.road.run.append_line("training.jsonl", row)
        self.road.observer.progress(row["step"], self.steps, "steps")

    def timing(self, row: dict[str, Any]) -> None:
        """The clock after a step, all sittings together."""
        self.road.run.append_line("timing.jsonl", {**row, "seconds": self._earlier_seconds + row["seconds"]})

    def truncate(self, step: int) -> None:
        """Forget what came after a step that training goes back to."""
        for name in ("training.jsonl", "timing.jsonl"):
            rows = [row for row in self._rows(name) if row["step"] <= step]
            self.road.run.write_lines(name, rows)
        self._earlier_seconds = rows[-1]["seconds"] if rows else 0.0

    def _rows(self, name: str) -> list[dict[str, Any]]:
        return self.road.run.read_lines(name) if self.road.run.file(name).is_file() else []


def run_training(road: Road, folder: Path) -> None:
    """Train the adapter for just the steps that the plan decided."""
    run = road.run
    plan = run.read_record("plan.json", Plan)
    config = plan.apply(road.config)
    pairs, base = Pairs.read(road), Base.locate(road)
    base.check(plan)
    examples = build_examples(pairs.train(config), base.tokenizer, config.prompt, config.train)
    validation = subset(pairs.of("validation"), config.train.eval_pairs, config.seed)
    layout = lay_out(
        [example.length for example in examples], config.train, seed=config.seed, steps=plan.optimizer_steps
    )
    model = attach_adapter(base.load(config.model, device=plan.device, dtype=plan.dtype), config.lora, config.seed)
    sink = RunSink(road, folder, plan.optimizer_steps)
    data = TrainingData(
        examples=examples,
        validation=build_examples(validation, base.tokenizer, config.prompt, config.train),
        layout=layout,
        pad_id=base.tokenizer.pad_token_id,
        dtype=plan.dtype,
        device=plan.device,
        save_steps=plan.save_steps,
        eval_steps=plan.eval_steps,
    )
    settings = config.train.model_copy(update={"max_steps": plan.optimizer_steps, "warmup_steps": plan.warmup_steps})
    # Beside the checkpoints, where the Trainer would put them, they would go when training is finished.
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run.file("trackers"))
    summary = train(model, base.tokenizer, data, settings, sink, config.seed)
    finished = folder / "adapter"
    finished.mkdir(exist_ok=True)
    save_adapter(model, finished, base=base.files)
    publish_folder(finished, run.file("adapter"))
    run.write_json("training.json", summary.model_dump(mode="json"))


TRAIN = Stage(
    name="train",
    settings=("seed", "prompt", "model", "lora", "train"),
    reads=("pairs.jsonl", "splits.jsonl", "plan.json"),
    writes=(*ADAPTER, "training.jsonl", "training.json"),
    work=run_training,
    outside=model_digest,
    precious=True,
)
