"""Looks, before every optimizer step, whether training keeps within the memory and the time that it has."""

from collections import deque
from collections.abc import Callable
from itertools import pairwise
from statistics import median

from vademecum.hardware import process_peak_bytes
from vademecum.training.adaptations import Adaptation, halving
from vademecum.training.protocol import TrainingData

RECENT_STEPS = 8
"""The pace is the median of so many steps: a validation or a checkpoint among them does not count."""
FEWEST_STEPS = 3
"""Below so many, not counting the first of a sitting, there is no pace yet."""
TOLERANCE = 0.02
"""Share of the time limit by which the prediction must exceed it, so that noise does not cut a step now and then."""


class Watch:
    """Watches one training. `seconds` tells how long it has worked, over all sittings."""

    def __init__(self, data: TrainingData, seconds: Callable[[], float]) -> None:
        self._data = data
        self._seconds = seconds
        self._begun = False
        self._held_before = process_peak_bytes()
        self._marks: deque[float] = deque(maxlen=RECENT_STEPS + 1)

    def look(self, step: int) -> Adaptation | None:
        """What must change, after `step` finished steps; called once before every step, by all ranks.

        Raises:
            RunError: the memory limit is exceeded and micro-batches cannot be made smaller.
        """
        ranks, limit = self._data.ranks, self._data.memory_limit_bytes
        held = 0 if limit is None else ranks.highest(process_peak_bytes())
        return ranks.agree(lambda: self._decide(step, held))

    def _decide(self, step: int, held_bytes: int) -> Adaptation | None:
        if self._begun:
            self._marks.append(self._seconds())
        self._begun = True
        return self._memory(step, held_bytes) or self._time(step)

    def _memory(self, step: int, held_bytes: int) -> Adaptation | None:
        limit = self._data.memory_limit_bytes
        # What was held before and never given back, smaller micro-batches would not take away.
        if limit is None or held_bytes <= max(limit, self._held_before):
            return None
        return halving(self._data.layout, step, held_bytes, limit)

    def _time(self, step: int) -> Adaptation | None:
        limit, steps = self._data.time_limit_seconds, self._data.layout.steps
        paces = [after - before for before, after in pairwise(self._marks)]
        if limit is None or len(paces) < FEWEST_STEPS:
            return None
        spent, pace = self._marks[-1], median(paces)
        predicted = spent + (steps - step) * pace
        affordable = step + max(1, int((limit - spent) / pace))
        if predicted <= limit * (1 + TOLERANCE) or affordable >= steps:
            return None
        return Adaptation(
            step=step,
            change="steps_cut",
            cause="time_limit",
            before=steps,
            after=affordable,
            measured=predicted,
            limit=limit,
        )
