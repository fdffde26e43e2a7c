"""The decode loop: the prompts of a chunk in, their answers' token ids out.

Rows that have ended leave the batch at once, and prompts of the chunk that still wait take their places, so that the
longest answer does not cost a whole batch per token. The answers are those of one prompt at a time: greedy ones differ
only where two logits tie to within rounding.
"""

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from vademecum.errors import RunError
from vademecum.generation.repetition import RepeatBan, tokens_loop
from vademecum.records import Record, Stopped
from vademecum.stopping import Stop

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


READ_SLOTS = 16_384
"""Tokens of prompt, padding included, that are read at once: long prompts go fewer at a time, to bound the memory."""
DRAWN_ROWS = 32
"""Rows that are drawn from at once: it takes several copies of their logits in double precision."""
REFILL_SHARE = 0.25
"""Part of the rows that must be free before new prompts are read: a few at a time keep no processor busy."""
REFILLED_BATCHES = 4
"""What `chunk_batches` is where rows are replaced: more would keep the batch full for longer, and a kill lose more."""


class Decoding(Record):
    """How answers are written. Together with the prompts and the model it decides every one of them."""

    max_new_tokens: Annotated[int, Field(gt=0)]
    """Longest answer in tokens."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """With a temperature: sample from the fewest likeliest tokens whose probabilities sum to this."""
    no_repeat_ngram_size: Annotated[int, Field(ge=0)] = 0
    """Never write the same n tokens twice in one answer; 0 is off."""
    batch_size: Annotated[int, Field(gt=0)] = 16
    """Most answers written at a time."""
    chunk_batches: Annotated[int, Field(gt=0)] = 1
    """A chunk has so many times the prompts that are answered at a time; above 1, they replace rows that have ended."""
    seed: int = 0
    """With a temperature: chunk number c draws its random numbers from seed + c, for every answer its own."""

    def rows(self, longest: int) -> int:
        """How many answers are written at a time when the longest prompt has so many tokens."""
        return min(self.batch_size, max(1, READ_SLOTS // max(1, longest)))


@dataclass(slots=True)
class Answer:
    """One row of a batch: what was written, and why it ended."""

    row: int
    """Its place among the prompts."""
    ban: RepeatBan
    draws: Random
    """One number for every token: what a row draws does not depend on the others."""
    ids: list[int] = field(default_factory=list)
    """The new tokens; an end token is not among them."""
    stopped: Stopped = "length"

    def take(self, token: int, ends: Collection[int], max_new_tokens: int) -> bool:
        """Write one more token; return whether the answer goes on."""
        if token in ends:
            self.stopped = "end_token"
            return False
        self.ids.append(token)
        self.ban.note(self.ids)
        if tokens_loop(self.ids):
            self.stopped = "loop"
            return False
        return len(self.ids) < max_new_tokens


class Batch:
    """Rows that a model continues together: their padding mask, their positions and the key-value cache.

    transformers' own growing cache is used. One that is allocated in full beforehand was measured 8-12 % faster on a
    CPU at 16 and 32 rows, not at all below that, and knows only one kind of attention layer.
    """

    def __init__(self, model: "PreTrainedModel", prompts: Sequence[Sequence[int]]) -> None:
        import torch
        from transformers import DynamicCache

        width = max(map(len, prompts))
        padding = [width - len(prompt) for prompt in prompts]
        self._model = model
        self._cache = DynamicCache(config=model.config)
        # On the left, so that every row's last token stands in the last column. The id of a pad is never looked at.
        rows = [[0] * pads + list(prompt) for pads, prompt in zip(padding, prompts, strict=True)]
        self._prompts = torch.tensor(rows, device=model.device)
        self._padding = torch.tensor(padding, device=model.device)[:, None]
        self._width = 0

    def start(self) -> "Tensor":
        """Read the prompts. Returns the logits of the first new token, float32 of shape (rows, vocabulary)."""
        return self._read(self._prompts)

    def go_on(self, tokens: "Tensor") -> "Tensor":
        """Read one token per row, shape (rows,). Returns the logits of the next one."""
        return self._read(tokens[:, None])

    def lengthen(self, tokens: int) -> None:
        """As if every row had read so many tokens more, for timing: what full attention looks back on gets longer by
        copies of the last token. Layers that look back on a window, or on a state, take no longer."""
        import torch
        from transformers.cache_utils import DynamicLayer

        for layer in self._cache.layers:
            if type(layer) is DynamicLayer:
                for name in ("keys", "values"):
                    read = getattr(layer, name)
                    last = read[:, :, -1:].expand(-1, -1, tokens, -1)
                    setattr(layer, name, torch.cat([read, last], dim=2))
        self._width += tokens

    @property
    def can_join(self) -> bool:
        """Only what full attention looks back on can be cut and padded on the left."""
        from transformers.cache_utils import DynamicLayer

        return all(type(layer) is DynamicLayer for layer in self._cache.layers)

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these, and the columns that are padding to all of these."""
        import torch

        index = torch.tensor(rows, device=self._padding.device)
        self._padding = self._padding[index]
        # Of the methods that select rows, this is the one that every kind of cache layer has.
        self._cache.reorder_cache(index)
        if self.can_join:
            self._widen(-int(self._padding.min()))

    def join(self, others: "Batch") -> None:
        """Put the rows of another batch behind its own. All rows end in the last column; the other batch is used up."""
        import torch

        width = max(self._width, others._width)
        self._widen(width - self._width)
        others._widen(width - others._width)
        self._padding = torch.cat([self._padding, others._padding])
        for layer, other in zip(self._cache.layers, others._cache.layers, strict=True):
            if layer.is_initialized:
                layer.keys, layer.values = torch.cat([layer.keys, other.keys]), torch.cat([layer.values, other.values])
                other.keys = other.values = None

    def _widen(self, columns: int) -> None:
        """Put so many columns of padding on the left of all rows; take them away where the number is negative."""
        from torch.nn.functional import pad

        if columns == 0:
            return
        self._width += columns
        self._padding = self._padding + columns
        for layer in (layer for layer in self._cache.layers if layer.is_initialized):
            for name in ("keys", "values"):
                read = getattr(layer, name)
                changed = pad(read, (0, 0, columns, 0)) if columns > 0 else read[:, :, -columns:]
                setattr(layer, name, changed)

    def _read(self, ids: "Tensor") -> "Tensor":
        import torch

        start, self._width = self._width, self._width + ids.shape[1]
        columns = torch.arange(self._width, device=ids.device)
        logits: Tensor = self._model(
            input_ids=ids,
            attention_mask=(columns >= self._padding).long(),
            position_ids=(columns[start:] - self._padding).clamp(min=0),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return logits.float()


def decode(
    model: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    ends: Collection[int],
    decoding: Decoding,
    seed: int,
    stop: Stop,
) -> list[Answer]:
    """Answer some prompts, as many at a time as `decoding` says; in their order, each with a reason why it stopped.

    Whenever `REFILL_SHARE` of the rows have ended, the next prompts are read and join the others. The batch is never
    wider than the longest prompt and its answer.

    Raises:
        RunError: the model's logits are not numbers.
        StoppedError: `stop` was asked to, before some token.
    """
    import torch

    answers = [
        Answer(row, RepeatBan(decoding.no_repeat_ngram_size), Random(f"{seed}/{row}")) for row in range(len(prompts))
    ]
    waiting = deque(answers)
    rows = decoding.rows(max(map(len, prompts)))

    def begin(count: int) -> tuple[list[Answer], Batch, "Tensor"]:
        taken = [waiting.popleft() for _ in range(min(count, len(waiting)))]
        batch = Batch(model, [prompts[answer.row] for answer in taken])
        return taken, batch, batch.start()

    with torch.inference_mode():
        active, batch, logits = begin(rows)
        while True:
            stop.check()
            _ban(logits, active)
            tokens = _choose(logits, decoding, [answer.draws.random() for answer in active])
            written = enumerate(zip(active, tokens.tolist(), strict=True))
            going = [i for i, (answer, token) in written if answer.take(token, ends, decoding.max_new_tokens)]
            if going:
                if len(going) < len(active):
                    batch.keep(going)
                active = [active[i] for i in going]
                logits = batch.go_on(tokens if len(going) == len(tokens) else tokens[going])
                free = rows - len(active)
                if waiting and batch.can_join and free >= rows * REFILL_SHARE:
                    fresh, joining, read = begin(free)
                    batch.join(joining)
                    active, logits = active + fresh, torch.cat([logits, read])
            elif waiting:
                del batch, logits  # else the old cache would lie beside the next one
                active, batch, logits = begin(rows)
            else:
                return answers


def _ban(logits: "Tensor", active: Iterable[Answer]) -> None:
    """Make the tokens that would repeat an n-gram impossible, in place."""
    banned = [(i, token) for i, answer in enumerate(active) for token in answer.ban.banned(answer.ids)]
    if banned:
        rows, tokens = zip(*banned, strict=True)
        logits[list(rows), list(tokens)] = -float("inf")


def _choose(logits: "Tensor", decoding: Decoding, draws: Sequence[float]) -> "Tensor":
    """One token per row: the likeliest, or the one on which the row's draw from [0, 1) falls.

    Nucleus sampling as in Holtzman et al. 2020, https://arxiv.org/abs/1904.09751.
    """
    import torch

    if logits.isnan().any():
        raise RunError(
            "the model's output is not a number (NaN)",
            hint="set model.dtype to float32; if it stays so, the weights are broken: train again or fetch them again",
        )
    if decoding.temperature == 0:
        return logits.argmax(dim=-1)
    parts = [slice(start, start + DRAWN_ROWS) for start in range(0, len(draws), DRAWN_ROWS)]
    return torch.cat([_draw(logits[part], decoding, draws[part]) for part in parts])


def _draw(logits: "Tensor", decoding: Decoding, draws: Sequence[float]) -> "Tensor":
    import torch

    precise = (logits.cpu() if logits.device.type == "mps" else logits).double()  # Apple's GPUs have no doubles
    likelihood, order = (precise / decoding.temperature).softmax(dim=-1).sort(descending=True, stable=True)
    total = likelihood.cumsum(dim=-1)
    nucleus = (total - likelihood < decoding.top_p).sum(dim=-1, keepdim=True)
    mass = total.gather(-1, nucleus - 1)
    drawn = torch.tensor(draws, dtype=torch.float64, device=total.device)[:, None]
    place = torch.searchsorted(total, drawn * mass, right=True)
    return order.gather(-1, place.minimum(nucleus - 1))[:, 0].to(logits.device)
