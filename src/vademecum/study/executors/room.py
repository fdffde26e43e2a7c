"""How many tasks a machine holds at once."""

from dataclasses import dataclass, field

from vademecum.errors import RunError
from vademecum.hardware import gpu_free_bytes, machine_memory_bytes, usable_cores
from vademecum.planning.memory import FREE_SHARE
from vademecum.study.executors.tasks import Task


@dataclass
class Room:
    """Cores, free memory and GPUs of a machine, and the tasks that are at work there. Tasks have different names."""

    cores: int
    free_bytes: int
    gpus: list[str]
    """Those that no task has, as CUDA_VISIBLE_DEVICES names them."""
    _at_work: dict[str, tuple[Task, str]] = field(default_factory=dict)
    """Each with its GPU, if it has one."""

    @classmethod
    def of_this_machine(cls) -> "Room":
        """What is free now, less the share that a plan leaves free too."""
        return cls(usable_cores(), round(machine_memory_bytes()[1] * FREE_SHARE), list(gpu_free_bytes()))

    def check(self, task: Task) -> None:
        """Refuse, before any has started, a task that never can.

        Raises:
            RunError: it needs a GPU and there is none.
        """
        if task.gpu and not self.gpus:
            raise RunError(
                f"{task.name} needs a GPU, and this machine has none that can be used",
                hint="see `vade doctor` and CUDA_VISIBLE_DEVICES, or set model.device to 'cpu'",
            )

    def enter(self, task: Task) -> str | None:
        """Let a task in: its CUDA_VISIBLE_DEVICES, empty where it needs none; none where there is no room for it now.

        One that needs more cores or memory than there are is let in alone.
        """
        if (task.gpu and not self.gpus) or (self._at_work and not self._has_room(task)):
            return None
        gpu = self.gpus.pop(0) if task.gpu else ""
        self._at_work[task.name] = (task, gpu)
        return gpu

    def leave(self, task: Task) -> None:
        """A task has ended."""
        _, gpu = self._at_work.pop(task.name)
        if gpu:
            self.gpus.append(gpu)

    def _has_room(self, task: Task) -> bool:
        tasks = [*(one for one, _ in self._at_work.values()), task]
        threads, memory = sum(one.threads for one in tasks), sum(one.memory_bytes for one in tasks)
        return threads <= self.cores and memory <= self.free_bytes
