"""The decode loop: a few prompts in, their answers' token ids out.

Rows that have ended leave the batch at once, so that the longest answer of a chunk does not cost a whole batch per
token. The answers are those of one prompt at a time: greedy ones differ only where two logits tie to within rounding.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from vademecum.errors import RunError
from vademecum.generation.repetition import RepeatBan, tokens_loop
from vademecum.records import Record, Stopped
from vademecum.stopping import Stop

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


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
    seed: int = 0
    """With a temperature: chunk number c draws its random numbers from seed + c."""


@dataclass(slots=True)
class Answer:
    """One row of a batch: what was written, and why it ended."""

    row: int
    """Its place among the prompts."""
    ban: RepeatBan
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

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these."""
        import torch

        index = torch.tensor(rows, device=self._padding.device)
        self._padding = self._padding[index]
        # Of the methods that select rows, this is the one that every kind of cache layer has.
        self._cache.reorder_cache(index)

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
    """Answer some prompts together; in their order, each with a reason why it stopped.

    Raises:
        RunError: the model's logits are not numbers.
        StoppedError: `stop` was asked to, before some token.
    """
    import torch

    answers = [Answer(row, RepeatBan(decoding.no_repeat_ngram_size)) for row in range(len(prompts))]
    # On the CPU, so that the numbers do not depend on the device.
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        batch = Batch(model, prompts)
        logits, active = batch.start(), answers
        while True:
            stop.check()
            _ban(logits, active)
            # One number for every prompt, ended or not: a row's draws do not depend on when others end.
            draws = torch.rand(len(prompts), generator=generator, dtype=torch.float64)
            tokens = _choose(logits, decoding, draws[[answer.row for answer in active]])
            written = enumerate(zip(active, tokens.tolist(), strict=True))
            going = [i for i, (answer, token) in written if answer.take(token, ends, decoding.max_new_tokens)]
            if not going:
                return answers
            if len(going) < len(active):
                batch.keep(going)
                active, tokens = [active[i] for i in going], tokens[going]
            logits = batch.go_on(tokens)


def _ban(logits: "Tensor", active: Iterable[Answer]) -> None:
    """Make the tokens that would repeat an n-gram impossible, in place."""
    banned = [(i, token) for i, answer in enumerate(active) for token in answer.ban.banned(answer.ids)]
    if banned:
        rows, tokens = zip(*banned, strict=True)
        logits[list(rows), list(tokens)] = -float("inf")


def _choose(logits: "Tensor", decoding: Decoding, draws: "Tensor") -> "Tensor":
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
    likelihood, order = (
        (logits.cpu().double() / decoding.temperature).softmax(dim=-1).sort(descending=True, stable=True)
    )
    total = likelihood.cumsum(dim=-1)
    nucleus = (total - likelihood < decoding.top_p).sum(dim=-1, keepdim=True)
    mass = total.gather(-1, nucleus - 1)
    place = torch.searchsorted(total, draws.to(total.device)[:, None] * mass, right=True)
    return order.gather(-1, place.minimum(nucleus - 1))[:, 0]
