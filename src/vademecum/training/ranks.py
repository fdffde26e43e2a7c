"""Data-parallel training: who is who among the processes of a launcher, how they meet, and what they agree on.

`torchrun` and `accelerate launch` start the same command several times and tell each process its rank by environment
variables. Rank 0 walks the road as if it were alone. The others wait until it trains, take their share of the
micro-batches of every step, and end when training does. Rank 0 alone decides and writes; of the others there is only
their random state in a checkpoint.

Libraries see the launcher's variables only while the processes train together: at all other times each of them is one
process to whom nobody else answers.
"""

import json
import os
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

from vademecum.errors import ConfigError, RunError, VademecumError

Value = TypeVar("Value")

PATIENCE = timedelta(days=7)
"""How long the others wait for rank 0, which may have a corpus to fetch; a launcher ends them if it dies."""
LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "ACCELERATE_MIXED_PRECISION")
"""What must not be seen by libraries outside of training; the number format is the plan's."""
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
    launcher: dict[str, str] = field(default_factory=dict)
    """The launcher's variables, taken out of the environment."""
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

        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        if device == "cuda":
            torch.cuda.set_device(self.local_rank)
        os.environ.update({name: value for name, value in self.launcher.items() if name != LAUNCHERS[-1]})
        _forget_state()
        torch.distributed.init_process_group(
            backend, store=self.store, rank=self.rank, world_size=self.size, timeout=PATIENCE
        )
        try:
            yield
        finally:
            torch.distributed.destroy_process_group()
            _forget_state()
            for name in LAUNCHERS:
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
        error: VademecumError | None = None
        if self.lead:
            try:
                told[0] = decide()
            except VademecumError as found:
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
        if self.alone:
            return count
        import torch

        summed = torch.tensor(count, dtype=torch.int64)
        torch.distributed.all_reduce(summed)
        return int(summed)

    def meet(self) -> None:
        """Wait until every rank has come here."""
        if not self.alone:
            import torch

            torch.distributed.barrier()


ALONE = Ranks()


def join_launcher(environment: MutableMapping[str, str] = os.environ) -> Ranks:
    """Find the other processes, if a launcher has started several, and take its variables out of the environment.

    Raises:
        ConfigError: the launcher asks for sharded weights.
        RunError: the others cannot be reached.
    """
    found = {name: environment.pop(name) for name in LAUNCHERS if name in environment}
    if int(found.get("WORLD_SIZE", "1")) < 2:
        return ALONE
    if environment.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        raise ConfigError(
            "accelerate is configured to shard the weights (FSDP), and every process must hold the whole base here",
            hint="launch without FSDP; model.quantization = 'nf4' puts a base of 8B into 6 GB per process",
        )
    from torch.distributed import DistError
    from torch.distributed.rendezvous import rendezvous

    rank, size = int(found["RANK"]), int(found["WORLD_SIZE"])
    try:
        store, _, _ = next(iter(rendezvous("env://", rank=rank, world_size=size, timeout=PATIENCE)))
    except (DistError, ValueError) as error:
        raise RunError(
            f"rank {rank} of {size} does not reach the others: {error}",
            hint="start with torchrun or accelerate launch, which set MASTER_ADDR and MASTER_PORT",
        ) from None
    return Ranks(
        rank,
        size,
        int(found.get("LOCAL_RANK", "0")),
        int(found.get("LOCAL_WORLD_SIZE", "1")),
        found,
        store,
    )


def _forget_state() -> None:
    """Accelerate looks once whether there are other processes, and remembers it."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
