"""How many tasks a machine holds at once."""

import math
from dataclasses import dataclass, field

from vademecum.errors import RunError
from vademecum.hardware import gpu_free_bytes, machine_memory_bytes, usable_cores
from vademecum.planning.memory import FREE_SHARE
from vademecum.study.executors.tasks import Task

WHOLE = 1.0 + 1e-9
"""Shares of a GPU may add up to one; three thirds do not, to the last bit."""


@dataclass
class Device:
    """A GPU, as CUDA_VISIBLE_DEVICES names it."""

    name: str
    free_bytes: int
    tasks: dict[str, Task] = field(default_factory=dict)

    def takes(self, task: Task) -> bool:
        """Whether its share, and its memory where others are at work, are left."""
        share = sum(min(1.0, other.gpus) for other in self.tasks.values())
        memory = sum(other.memory_bytes for other in self.tasks.values())
        fits = not self.tasks or memory + task.memory_bytes <= self.free_bytes
        return fits and share + min(1.0, task.gpus) <= WHOLE


@dataclass
class Room:
    """Cores, free memory and GPUs of a machine, and the tasks that are at work there. Tasks have different names."""

    cores: int
    free_bytes: int
    devices: list[Device]
    _at_work: dict[str, Task] = field(default_factory=dict)

    @classmethod
    def of_this_machine(cls) -> "Room":
        """What is free now, less the share that a plan leaves free too."""
        gpus = [Device(name, round(free * FREE_SHARE)) for name, free in gpu_free_bytes().items()]
        return cls(usable_cores(), round(machine_memory_bytes()[1] * FREE_SHARE), gpus)

    def check(self, task: Task) -> None:
        """Refuse a task that can never start here.

        Raises:
            RunError: it needs more GPUs than there are.
        """
        if math.ceil(task.gpus) > len(self.devices):
            raise RunError(
                f"{task.name} needs {task.gpus:g} GPUs, and this machine has {len(self.devices)} that can be used",
                hint="see `vade doctor` and CUDA_VISIBLE_DEVICES, or set model.device to 'cpu'",
            )

    def enter(self, task: Task) -> str | None:
        """Let a task in: its CUDA_VISIBLE_DEVICES, empty where it needs none; none where there is no room for it now.

        One that needs more cores or memory than there are is let in alone.
        """
        devices = [device for device in self.devices if device.takes(task)][: math.ceil(task.gpus)]
        if len(devices) < math.ceil(task.gpus) or (self._at_work and not self._has_room(task)):
            return None
        self._at_work[task.name] = task
        for device in devices:
            device.tasks[task.name] = task
        return ",".join(device.name for device in devices)

    def leave(self, task: Task) -> None:
        """A task has ended."""
        del self._at_work[task.name]
        for device in self.devices:
            device.tasks.pop(task.name, None)

    def _has_room(self, task: Task) -> bool:
        tasks = [*self._at_work.values(), task]
        memory = sum(one.memory_bytes for one in tasks if not one.gpus)
        return sum(one.threads for one in tasks) <= self.cores and (bool(task.gpus) or memory <= self.free_bytes)
