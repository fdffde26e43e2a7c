"""The train stages of several runs at once, on one frozen base: each ends as if it had been alone."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from vademecum.errors import ConfigError
from vademecum.hardware import PeakMemory
from vademecum.planning import Plan
from vademecum.planning.choice import HOST_SLOTS, MEMORY_MARGIN
from vademecum.runs import Run
from vademecum.stages.road import Road, finish
from vademecum.stages.train import TRAIN, Prepared, RunSink, prepare_training, publish
from vademecum.training import Member, SharedAdapters, Sharing, can_share, train_together


def train_runs_together(roads: Sequence[Road], checkpoints: Path) -> None:
    """Train the adapters of planned runs whose training is not finished; `checkpoints` is a folder for all of them.

    One that was begun alone is left to go on alone, for its own checkpoints may be further than those of all. The same
    call goes on where it was stopped. Each run's seconds are its share, by real tokens, of the time that all took.

    Raises:
        ConfigError: they cannot share a base and come to what they come to alone.
        StoppedError: a road's `stop` was asked to.
        RunError: another process holds one of the runs, or training does not fit into memory.
    """
    with ExitStack() as locks:
        for road in roads:
            locks.enter_context(road.run.lock())
        inputs = [TRAIN.inputs(road) for road in roads]
        waiting = [
            (road, read)
            for road, read in zip(roads, inputs, strict=True)
            if not (road.run.is_current(TRAIN.name, read) or is_begun_alone(road.run))
        ]
        if waiting:
            _train([road for road, _ in waiting], [read for _, read in waiting], checkpoints)


def is_begun_alone(run: Run) -> bool:
    """Whether a training that is not finished has checkpoints of its own."""
    return any((run.path / "work" / TRAIN.name / "checkpoints").glob("checkpoint-*"))


def _train(roads: Sequence[Road], inputs: Sequence[dict[str, str]], checkpoints: Path) -> None:
    began = time.monotonic()
    trainings = [prepare_training(road) for road in roads]
    configs = [one.config for one in trainings]
    reason = can_share([one.model for one in configs], [one.lora for one in configs], [one.train for one in configs])
    if reason:
        raise ConfigError(f"cannot train together: {reason}", hint="train the runs one after another")
    folders = [road.run.workspace(TRAIN.name, read) for road, read in zip(roads, inputs, strict=True)]
    with PeakMemory() as memory:
        adapters = SharedAdapters(trainings[0].load(), configs[0].lora, [one.seed for one in trainings])
        members = [
            Member(one.settings, one.data, one.seed, RunSink(road, folder, one.plan.optimizer_steps, checkpoints))
            for one, road, folder in zip(trainings, roads, folders, strict=True)
        ]
        loading = time.monotonic() - began
        summaries = train_together(adapters, members, checkpoints, _sharing(trainings))
        # The sinks' clocks count earlier sittings too; all of them have run through.
        training = max(member.sink.seconds() for member in members)
        tokens = sum(summary.real_tokens for summary in summaries)
        for number, (summary, road, folder) in enumerate(zip(summaries, roads, folders, strict=True)):
            publish(road, folder, summary, adapters.put_in(number), trainings[number].base)
    for road, read, summary in zip(roads, inputs, summaries, strict=True):
        share = summary.real_tokens / tokens if tokens else 1 / len(roads)
        finish(road, TRAIN, read, loading / len(roads) + training * share, memory.peak_bytes)


def _sharing(trainings: Sequence[Prepared]) -> Sharing:
    plan = trainings[0].plan
    device = trainings[0].data.device
    host = next(slots for name, slots in HOST_SLOTS.items() if name == device)
    rounds = min(one.plan.save_steps * one.data.layout.accumulation for one in trainings)
    return Sharing(save_rounds=rounds, host_slots=host, most_slots=most_slots(plan, len(trainings)))


def most_slots(plan: Plan, members: int) -> int:
    """Token positions that a pass may have: what the memory limit leaves, at the predicted bytes per position."""
    memory = plan.memory
    per_slot = max(1.0, memory.activations_bytes / plan.micro_batch_tokens)
    fixed = plan.process_bytes + memory.weights_bytes + members * memory.adapter_bytes
    return max(plan.micro_batch_tokens, int((plan.memory_limit_bytes / (1 + MEMORY_MARGIN) - fixed) / per_slot))
