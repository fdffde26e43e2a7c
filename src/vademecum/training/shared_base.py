"""Several trainings on one frozen base: their micro-batches go through it together, each row with its own adapter.

A small micro-batch leaves a GPU idle: launching the kernels takes longer than running them. Trainings that differ only
in what comes after the gradient (optimizer, learning rate, schedule, warmup, decay, clipping) or in which rows they see
when (seed, accumulation, steps) can share the launches. The results are those of training alone, up to the rounding of
sums whose parts stand elsewhere.

Every training that is not finished gives its next micro-batch to a round. A round is one pass through the base, or
several: micro-batches of very unlike shapes would be padding for the most part, and padding is computed like anything
else (`share_out`).
"""

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vademecum.config.sections import LoraConfig, ModelConfig, TrainConfig
from vademecum.cuda import is_out_of_memory
from vademecum.errors import ConfigError, InputError, RunError
from vademecum.files import write_json
from vademecum.hardware import PeakMemory
from vademecum.training.arguments import CHECKPOINTS_KEPT
from vademecum.training.batching import collate
from vademecum.training.checkpoints import is_whole, newest_reached, sealed, step_of
from vademecum.training.engine import unwrapped_after
from vademecum.training.loss import example_losses, token_losses
from vademecum.training.protocol import TrainingSummary
from vademecum.training.shared_layers import Rows, SharedAdapters
from vademecum.training.shared_member import Course, Member
from vademecum.training.supervision import IGNORED, Example

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Member", "SharedAdapters", "Sharing", "can_share", "share_out", "train_together"]

OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop")
"""Those that look at one weight tensor and its gradient at a time and hang nothing onto the model."""
EMPTY_ROW = Example(id="", input_ids=[], labels=[])
"""Fills up a member with fewer rows than another in the same pass."""


@dataclass(frozen=True)
class Sharing:
    """How members share the base."""

    save_rounds: int
    """Rounds between checkpoints; the last round is always one."""
    host_slots: int
    """What a pass costs beside its slots, in slots: `planning.choice.HOST_SLOTS` of the device."""
    most_slots: int | None = None
    """The most slots of a pass with several members. What a pass holds is what the plan predicts for one training with
    micro-batches of so many slots. None: all members in one pass hold the sum of what each would hold alone, and more
    for the padding."""


def can_share(models: Sequence[ModelConfig], loras: Sequence[LoraConfig], trains: Sequence[TrainConfig]) -> str | None:
    """Why runs with these sections cannot train together and come to what they come to alone; none: they can.

    What only the loaded base can tell, `SharedAdapters` refuses.
    """
    if any(one != models[0] for one in models) or any(one != loras[0] for one in loras):
        return "their base models or the shapes of their adapters differ"
    if loras[0].lora_dropout > 0:
        return (
            f"lora.lora_dropout is {loras[0].lora_dropout:g}: what is dropped from an adapter's rows would depend on "
            "the rows of the others, so no training would be what it is alone"
        )
    if models[0].quantization != "none":
        return f"model.quantization is {models[0].quantization!r}: only unquantized weights are shared"
    if models[0].dtype == "float16":
        return "model.dtype is 'float16', which scales the loss: the members would have one scale"
    return next((reason for one in trains if (reason := _obstacle(one))), None)


def _obstacle(train: TrainConfig) -> str | None:
    if train.optim not in OPTIMIZERS:
        return f"train.optim is {train.optim!r}: those that can share are {', '.join(OPTIMIZERS)}"
    if train.batching == "packed":
        return "train.batching is 'packed': in a packed row the attention must be told where examples end"
    if train.gradient_checkpointing:
        return "train.gradient_checkpointing is on: there is no memory to share"
    if train.report_to:
        return f"train.report_to names {train.report_to[0]!r}, which follows one training at a time"
    return None


def share_out(shapes: Sequence[tuple[int, int]], host_slots: int, most_slots: int | None = None) -> list[list[int]]:
    """Which micro-batches, given as (rows, width), go through the base together: the cheapest way by their slots.

    A pass costs `host_slots` and, for each of its members, the most rows times the greatest width among them. Only
    neighbours in width are brought together.
    """
    order = sorted(range(len(shapes)), key=lambda number: (shapes[number][1], shapes[number][0]))
    best: list[tuple[int, list[list[int]]]] = [(0, [])]
    for end in range(1, len(order) + 1):
        ways = []
        rows = width = 0
        for start in range(end - 1, -1, -1):
            rows, width = max(rows, shapes[order[start]][0]), max(width, shapes[order[start]][1])
            slots = (end - start) * rows * width
            if start < end - 1 and most_slots is not None and slots > most_slots:
                break
            cost, before = best[start]
            ways.append((cost + slots + host_slots, len(before), [*before, sorted(order[start:end])]))
        cost, _, passes = min(ways, key=lambda way: way[:2])
        best.append((cost, passes))
    return best[-1][1]


def train_together(
    adapters: SharedAdapters, members: Sequence[Member], checkpoints: Path, sharing: Sharing
) -> list[TrainingSummary]:
    """Train every member's adapter over the whole of its layout, going on from the newest of the joint checkpoints.

    Each member's rows and its adapter (`adapters.put_in`) are those of `train` up to rounding. A member whose loss or
    gradient norm is not finite ends as `diverged` and leaves the others as they are. Killed and called again with the
    same arguments, on a CPU with as many threads, the rows and the weights are the same bit for bit.

    Memory: the base once; per member 16 bytes per weight of its adapter with Adam; and the activations of one pass,
    which `sharing.most_slots` bounds.

    Raises:
        StoppedError: a sink's `stop` was asked to; the round in flight was finished and is on disk.
        ConfigError: members cannot train together.
        InputError: a member's data hold limits, which could change its course, or do not fit the others' or `adapters`.
        RunError: a checkpoint cannot be written or is of other members, or training does not fit into memory.
    """
    _check(adapters, members)
    with unwrapped_after(adapters.model), PeakMemory():
        courses = [Course(member, adapters, number, checkpoints) for number, member in enumerate(members)]
        adapters.share()
        adapters.model.train()
        done = _resume(courses, checkpoints)
        try:
            _train(adapters, courses, checkpoints, sharing, done)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise RunError(
                f"{len(members)} members do not fit into memory together",
                hint="train fewer at once, or let fewer slots into a pass",
            ) from error
    return [course.summary() for course in courses]


def _check(adapters: SharedAdapters, members: Sequence[Member]) -> None:
    reason = next((found for member in members if (found := _obstacle(member.config))), None)
    if reason:
        raise ConfigError(f"cannot train together: {reason}", hint="train the variants one after another")
    if [member.seed for member in members] != adapters.seeds:
        raise InputError("the adapters have other seeds than the members", hint="make them of the members' seeds")
    first = members[0].data
    for data in (member.data for member in members):
        if (data.dtype, data.device, data.pad_id) != (first.dtype, first.device, first.pad_id):
            raise InputError("the members' data are for different machines or models", hint="plan them as one")
        if data.memory_limit_bytes is not None or data.time_limit_seconds is not None or data.schedule is not None:
            raise InputError(
                "a member's data hold limits or a changed schedule, and a shared training does not change its course",
                hint="leave memory_limit_bytes, time_limit_seconds and schedule unset",
            )


def _train(adapters: SharedAdapters, courses: Sequence[Course], folder: Path, sharing: Sharing, rounds: int) -> None:
    """Round after round, from the `rounds` that are done."""
    if not rounds:
        _validate(adapters, courses)
    while active := [course for course in courses if course.active]:
        _heed(courses, folder, rounds)
        shapes = [course.shape() for course in active]
        for group in share_out(shapes, sharing.host_slots, sharing.most_slots):
            _pass(adapters, [active[number] for number in group])
        _finish_steps(adapters, [course for course in active if course.at_end_of_step])
        rounds += 1
        if rounds % sharing.save_rounds == 0 or not any(course.active for course in courses):
            _save(courses, folder, rounds)


def _pass(adapters: SharedAdapters, courses: Sequence[Course]) -> None:
    """One forward and backward for a micro-batch of each of the `courses`."""
    import torch

    batches = [course.micro_batch() for course in courses]
    most, width = (max(sizes) for sizes in zip(*(course.shape() for course in courses), strict=True))
    rows = []
    for course, batch in zip(courses, batches, strict=True):
        rows += [course.member.data.examples[index] for index in batch] + [EMPTY_ROW] * (most - len(batch))
    data = courses[0].member.data
    inputs = collate(rows, data.pad_id, width)
    # Where the loss stands is known here; asking the device would wait for it.
    labels = inputs.pop("labels")[:, 1:]
    trained = labels != IGNORED
    counts = trained.reshape(len(courses), -1).sum(dim=1).tolist()
    lines, columns = trained.nonzero(as_tuple=True)
    tokens = torch.tensor([float(course.tokens_of_step()) for course in courses])

    def there(tensor: "Tensor") -> "Tensor":
        return tensor.to(data.device)

    numbers = torch.tensor([course.number for course in courses])
    adapters.rows = Rows(there(numbers), (len(rows), width))
    inputs = {name: there(value) for name, value in inputs.items()}
    with _computing(data.dtype, data.device):
        losses = token_losses(adapters.model, inputs, there(lines * width + columns), there(labels[trained]))
    shares = torch.stack([part.sum() for part in torch.split(losses, counts)]) / there(tokens)
    torch.autograd.backward(shares.sum())
    for course, share in zip(courses, shares.detach().unbind(), strict=True):
        course.passed(share)


def _finish_steps(adapters: SharedAdapters, courses: Sequence[Course]) -> None:
    """Update the adapters whose step is complete, each by its own optimizer, and validate those whose turn it is."""
    import torch

    if not courses:
        return
    norms = [course.clipped() for course in courses]
    # The device is waited for once, not once per member.
    losses, grad_norms = torch.stack([torch.stack([one.loss for one in courses]), torch.stack(norms)]).tolist()
    for course, loss, grad_norm in zip(courses, losses, grad_norms, strict=True):
        course.update(loss, grad_norm)
    _validate(adapters, courses)


def _validate(adapters: SharedAdapters, courses: Sequence[Course]) -> None:
    """Take the validation losses of those whose turn it is."""
    import torch

    for course in courses:
        if not course.remark and course.is_validated:
            data = course.member.data
            adapters.rows = Rows(torch.tensor([course.number], device=data.device))
            with _computing(data.dtype, data.device):
                found = example_losses(adapters.model, data.validation, data.pad_id, data.layout.worst_tokens)
            course.validated(found)


def _computing(dtype: str, device: str) -> Any:  # noqa: ANN401  untyped
    """As the Trainer computes in this dtype."""
    import torch

    return torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == "bfloat16")


def _heed(courses: Sequence[Course], folder: Path, rounds: int) -> None:
    """Stop here, with everything on disk, if any sink was asked to."""
    asked = next((one.member.sink.stop for one in courses if one.member.sink.stop.asked), None)
    if asked is not None:
        if rounds and not is_whole(_checkpoint(folder, rounds)):
            _save(courses, folder, rounds)
        asked.check()


def _checkpoint(folder: Path, rounds: int) -> Path:
    return folder / f"checkpoint-{rounds}"


def _save(courses: Sequence[Course], folder: Path, rounds: int) -> None:
    """Everything of all members after so many rounds; the oldest checkpoints go."""
    import torch

    checkpoint = _checkpoint(folder, rounds)
    with sealed(checkpoint):
        checkpoint.mkdir(parents=True, exist_ok=True)
        members = [{"digest": course.member.digest, "step": course.step} for course in courses]
        write_json(checkpoint / "members.json", members)
        torch.save([course.state() for course in courses], checkpoint / "state.pt")
    for old in sorted(folder.glob("checkpoint-*"), key=step_of)[:-CHECKPOINTS_KEPT]:
        shutil.rmtree(old)


def _resume(courses: Sequence[Course], folder: Path) -> int:
    """Take up the newest whole checkpoint, of these members or of more; how many rounds it has done."""
    import torch

    def say(text: str) -> None:
        for course in courses:
            course.member.sink.say(text)

    def members_in(checkpoint: Path) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((checkpoint / "members.json").read_text(encoding="utf-8"))
        return found

    def reached(checkpoint: Path) -> bool:
        members = members_in(checkpoint)
        if Counter(course.member.digest for course in courses) - Counter(one["digest"] for one in members):
            raise RunError(f"{checkpoint} is of other trainings than these", hint="give another folder, or remove it")
        steps = {one["digest"]: one["step"] for one in members}
        return all(course.member.sink.done() >= steps[course.member.digest] for course in courses)

    checkpoint = newest_reached(folder, reached, say)
    if checkpoint is not None:
        states = defaultdict(list)  # members that are alike have a state each: an optimizer writes into its own
        saved = torch.load(checkpoint / "state.pt", map_location="cpu", weights_only=True)
        for one, state in zip(members_in(checkpoint), saved, strict=True):
            states[one["digest"]].append(state)
        for course in courses:
            course.load(states[course.member.digest].pop())
    for course in courses:
        course.member.sink.truncate(course.step if checkpoint else -1)  # with a step 0 that is not done yet
    return step_of(checkpoint) if checkpoint else 0
