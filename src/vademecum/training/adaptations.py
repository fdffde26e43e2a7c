"""What training may change in its own course to keep within memory and time, and how the learning rate follows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vademecum.records import Record
from vademecum.training.batching import Layout

NOT_REPEATED = (
    "Training was adapted to the machine while it ran: the same command is not promised to give the same adapter again."
)


class Adaptation(Record):
    """One change of course. It is on disk before it takes effect, so that a resumed training keeps it."""

    step: int
    """Optimizer steps that were finished."""
    change: Literal["micro_batches_halved", "steps_cut"]
    cause: Literal["out_of_memory", "memory_limit", "time_limit"]
    before: int
    """Micro-batches per optimizer step, or optimizer steps of the whole training."""
    after: int
    """The same, from here on."""
    measured: float | None = None
    """Peak bytes of the process, or predicted seconds of the whole training; none when memory ran out."""
    limit: float | None = None
    """What was allowed, in the same unit."""

    def in_words(self) -> str:
        """One sentence for people."""
        if self.change == "steps_cut":
            return (
                f"after step {self.step}: training would have taken {(self.measured or 0) / 60:.1f} minutes at this "
                f"pace and has {(self.limit or 0) / 60:.1f}, so there are {self.after} optimizer steps instead of "
                f"{self.before}; the learning rate runs through the rest of its schedule faster"
            )
        why = "out of memory"
        if self.cause == "memory_limit":
            why = f"the process held {(self.measured or 0) / 1e9:.2f} GB and may hold {(self.limit or 0) / 1e9:.2f} GB"
        return (
            f"after step {self.step}: {why}, so the examples of an optimizer step come in {self.after} micro-batches "
            f"instead of {self.before}"
        )


@dataclass(frozen=True)
class Schedule:
    """Where the steps of a training stand on the learning-rate schedule that was planned for it."""

    planned_steps: int
    turns: tuple[tuple[int, float], ...] = ((0, 0.0),)
    """Step → position on the planned schedule, where the pace along it changes."""
    steps: int | None = None
    """How many there will be; none: as planned."""

    def position(self, step: float) -> float:
        """`step`, until steps are cut; from there on at an even pace to the end of the planned schedule."""
        ends = [*self.turns[1:], (self.steps or self.planned_steps, float(self.planned_steps))]
        for (first, start), (last, end) in zip(self.turns, ends, strict=True):
            if step == last:
                return end  # not a rounding error beside it
            if step < last:
                return start + (step - first) * (end - start) / (last - first)
        return float(self.planned_steps)

    def cut(self, step: int, steps: int) -> "Schedule":
        """This schedule, from `step` on compressed such that it ends after `steps`."""
        before = tuple(turn for turn in self.turns if turn[0] < step)
        return Schedule(self.planned_steps, (*before, (step, self.position(step))), steps)


def halving(layout: Layout, step: int, measured: float | None = None, limit: float | None = None) -> Adaptation:
    """The change that makes micro-batches smaller: with the bytes that were held and allowed, or out of memory.

    Raises:
        RunError: they cannot be made smaller.
    """
    return Adaptation(
        step=step,
        change="micro_batches_halved",
        cause="out_of_memory" if limit is None else "memory_limit",
        before=layout.accumulation,
        after=layout.halved().accumulation,
        measured=measured,
        limit=limit,
    )


def follow(layout: Layout, adaptations: Sequence[Adaptation]) -> tuple[Layout, Schedule]:
    """The layout, and the schedule, that are left of a planned layout after some changes."""
    schedule = Schedule(layout.steps)
    for one in adaptations:
        if one.change == "micro_batches_halved":
            layout = layout.halved()
        else:
            layout, schedule = layout.select(range(one.after)), schedule.cut(one.step, one.after)
    return layout, schedule
