"""Data-parallel training: who is who among the processes of a launcher, how they meet, and what they agree on.

`torchrun` and `accelerate launch` start the same command several times and tell each process its rank by environment
variables. Rank 0 walks the road as if it were alone. The others wait until it trains, take their share of the
micro-batches of every step, and end when training does. Rank 0 alone decides and writes; of the others there is only
their random state in a checkpoint.

Libraries see that there are several processes only while these train together: at all other times each of them is one
process to whom nobody else answers. What Accelerate's launcher says besides (number format, device) is not heard: that
is the plan's.
"""

import json
import os
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from vademecum.errors import ConfigError, RunError, VademecumError
from vademecum.hardware import usable_cores

Value = TypeVar("Value")

TO_MEET = timedelta(minutes=10)
"""How long all processes have to come."""
TO_PREPARE = timedelta(days=7)
"""How long the others wait for rank 0, which may have a corpus to fetch; a launcher ends them if it dies."""
TO_ANSWER = timedelta(hours=1)
"""How long one waits for another while they train: longer than loading a base or writing a checkpoint takes."""
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
OTHER_WAYS = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG")
"""Of training on several GPUs, by Accelerate's names for them."""
ORDER = "order"


class DismissedError(RunError):
    """Rank 0 has ended the training, and says why itself."""


@dataclass(frozen=True)
class Ranks:
    """The processes that train one adapter, seen from one of them; by default there is no other."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Its number on this machine: that of its GPU."""
    local_size: int = 1
    """Processes on this machine."""
    store: Any = None
    """What rank 0 leaves for the others; none: there are no others."""

    @property
    def lead(self) -> bool:
        """Whether this process decides and writes."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    def speedup(self, device: str) -> int:
        """How many times as fast as one process all of them are, what they say to one another not counted: each has a
        GPU of its own, and those of a machine share its cores."""
        return self.size if device == "cuda" else max(1, self.size // self.local_size)

    def check(self, device: str) -> None:
        """Refuse a device on which the processes cannot train together.

        Raises:
            ConfigError: it is neither `cuda` nor `cpu`, or has fewer GPUs than processes.
        """
        if self.alone or device == "cpu":
            return
        import torch

        gpus = torch.cuda.device_count() if device == "cuda" else 0
        if gpus < self.local_size:
            raise ConfigError(
                f"{self.local_size} processes were started on this machine, and it has {gpus} CUDA devices for them",
                hint="start as many processes as there are GPUs, or set model.device to 'cpu'",
            )

    # Before and after training: orders

    def call_up(self, **order: str) -> None:
        """Rank 0 begins to train: the others shall join in, with what `order` tells them."""
        if not self.alone:
            self.store.set(ORDER, json.dumps(order))

    def dismiss(self) -> None:
        """Rank 0 will not train any more: whoever still waits may go."""
        if not self.alone:
            self.store.compare_set(ORDER, "", json.dumps(None))

    def wait_for_order(self) -> dict[str, str] | None:
        """What rank 0 tells those whom it calls up; none: there is nothing to do."""
        order: dict[str, str] | None = json.loads(self.store.get(ORDER))
        return order

    # While training: together

    @contextmanager
    def together(self, device: str) -> Iterator[None]:
        """Let libraries see all processes as one group, on `device`: `cpu` or `cuda`; every rank must come here."""
        if self.alone:
            yield
            return
        import torch

        values = (self.rank, self.size, self.local_rank, self.local_size)
        os.environ.update({name: str(value) for name, value in zip(NAMES, values, strict=True)})
        _forget_state()
        threads = torch.get_num_threads()
        if device == "cuda":
            torch.cuda.set_device(self.local_rank)
        else:
            torch.set_num_threads(max(1, usable_cores() // self.local_size))
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
            store=self.store,
            rank=self.rank,
            world_size=self.size,
            timeout=TO_ANSWER,
        )
        try:
            yield
        finally:
            torch.distributed.destroy_process_group()
            torch.set_num_threads(threads)
            _forget_state()
            for name in NAMES:
                os.environ.pop(name, None)

    def agree(self, decide: Callable[[], Value]) -> Value:
        """What rank 0 decides, in every rank; `decide` is called in rank 0 alone.

        Raises:
            DismissedError: in the others, where `decide` raised an error of its own in rank 0.
        """
        if self.alone:
            return decide()
        import torch

        told: list[Any] = [None, False]
        error: Exception | None = None
        if self.lead:
            try:
                told[0] = decide()
            except (VademecumError, OSError) as found:
                told[1], error = True, found
        torch.distributed.broadcast_object_list(told, src=0)
        if error is not None:
            raise error
        if told[1]:
            raise DismissedError("rank 0 has ended the training", hint="see what it says")
        decided: Value = told[0]
        return decided

    def total(self, count: int) -> int:
        """The sum of what all ranks count."""
        return self._reduced(count, "SUM")

    def highest(self, count: int) -> int:
        """The most that any rank has."""
        return self._reduced(count, "MAX")

    def _reduced(self, count: int, operation: str) -> int:
        if self.alone:
            return count
        import torch

        reduced = torch.tensor(count, dtype=torch.int64)
        torch.distributed.all_reduce(reduced, getattr(torch.distributed.ReduceOp, operation))
        return int(reduced)

    def meet(self) -> None:
        """Wait until every rank has come here."""
        self.total(0)


ALONE = Ranks()


def join_launcher(environment: MutableMapping[str, str] = os.environ) -> Ranks:
    """Find the other processes, if a launcher has started several, and take its variables out of the environment.

    Outside of training this process uses all cores, whatever OMP_NUM_THREADS says: torchrun sets it to 1.

    Raises:
        ConfigError: the variables are not whole, or ask for sharded weights or another engine.
        RunError: the others do not come.
    """
    for way in OTHER_WAYS:
        if environment.get(f"ACCELERATE_USE_{way}", "").lower() in ("true", "1"):
            raise ConfigError(
                f"accelerate is configured for {way}, and here every process holds the whole base",
                hint="launch it as MULTI_GPU; train.dp_shard_size keeps the base in parts (FSDP), and "
                "model.quantization = 'nf4' puts a base of 8B into 6 GB per process",
            )
    for name in [name for name in environment if name.startswith("ACCELERATE_")]:
        del environment[name]
    found = {name: environment.pop(name) for name in NAMES if name in environment}
    rank, size, local_rank, local_size = (_number(found, name) for name in NAMES)
    if size < 2:
        return ALONE
    import torch
    from torch.distributed import DistError
    from torch.distributed.rendezvous import rendezvous

    try:
        store, _, _ = next(iter(rendezvous("env://", rank=rank, world_size=size, timeout=TO_MEET)))
    except (DistError, ValueError) as error:
        raise RunError(
            f"rank {rank} of {size} does not reach the others: {error}",
            hint="start with torchrun or accelerate launch; if WORLD_SIZE is a leftover of something else, unset it",
        ) from None
    store.set_timeout(TO_PREPARE)
    torch.set_num_threads(usable_cores())
    return Ranks(rank, size, local_rank, max(1, local_size), store)


def _number(found: MutableMapping[str, str], name: str) -> int:
    text = found.get(name, "")
    several = found.get("WORLD_SIZE", "") not in ("", "1")
    if not text.isdigit() and (text or (several and name in ("RANK", "LOCAL_RANK"))):
        raise ConfigError(
            f"WORLD_SIZE is {found.get('WORLD_SIZE')!r} and {name} is {text or 'not set'!r}",
            hint="start with torchrun or accelerate launch, which set all of them; or, if they are a leftover of "
            "something else, unset WORLD_SIZE",
        )
    return int(text or 0)


def _forget_state() -> None:
    """Accelerate looks once whether there are other processes, and remembers it."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
