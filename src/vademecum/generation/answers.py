"""From prompts to predictions, in chunks that a broken run can go on after.

The chunks are fixed by the prompts and the batch size, and what comes out of a chunk by nothing outside it: a run that
was stopped and resumed writes the same predictions as one that was not.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Protocol

from vademecum.cuda import is_out_of_memory
from vademecum.errors import InputError, RunError
from vademecum.generation.decoding import Answer, Batch, Decoding, decode
from vademecum.generation.repetition import RepeatBan
from vademecum.hardware import PeakMemory, process_peak_bytes, release_memory
from vademecum.prompts import decode_answer, end_token_id
from vademecum.records import Prediction, Record
from vademecum.stopping import Stop

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a system is asked."""

    id: str
    """The id of the pair to be answered."""
    input_ids: list[int]
    """Up to and with the opening of the answer."""
    shown: tuple[str, ...] = ()
    """Ids of the train pairs that stand in it."""


class PredictionSink(Protocol):
    """Where finished chunks go."""

    @property
    def stop(self) -> Stop:
        """Asked before every token; what is written of the chunk in flight is then lost."""

    def done(self) -> int:
        """How many chunks, from the first on, are there already."""

    def write(self, chunk: int, predictions: list[Prediction]) -> None:
        """Keep the predictions of chunk number `chunk`, counted from 0."""

    @property
    def limit_bytes(self) -> int | None:
        """The most that the process may hold; none where an allocator looks after that."""

    def lessen(self, rows: int) -> None:
        """Told when memory ran short, and answers are written so many at a time from now on."""


@dataclass
class KeptAnswers:
    """A sink in memory, for answers that no later sitting goes on from."""

    stop: Stop = field(default_factory=Stop)
    predictions: list[Prediction] = field(default_factory=list)
    limit_bytes: int | None = None

    def done(self) -> int:
        """Nothing is there already."""
        return 0

    def write(self, chunk: int, predictions: list[Prediction]) -> None:
        """Keep a chunk."""
        self.predictions += predictions

    def lessen(self, rows: int) -> None:
        """Nobody is told."""


class GenerationTiming(Record):
    """What it took to answer one chunk whose answers all have the same length."""

    rows: int
    prompt_tokens: int
    """Read, all rows together, padding not counted."""
    new_tokens: int
    """Written, all rows together."""
    prefill_seconds: float
    """Reading the prompts."""
    decode_seconds: float
    """Writing the new tokens."""

    @property
    def seconds(self) -> float:
        """Both together."""
        return self.prefill_seconds + self.decode_seconds


def chunks(prompts: Sequence[Prompt], decoding: Decoding) -> list[list[Prompt]]:
    """The prompts that are answered together: longest first, ties by id, `batch_size` times `chunk_batches` to a chunk.

    Longest first, so that memory that does not suffice is noticed at once. Very long prompts go fewer to a chunk.
    """
    found: list[list[Prompt]] = []
    room = 0
    for prompt in sorted(prompts, key=lambda prompt: (-len(prompt.input_ids), prompt.id)):
        if room == 0:
            found.append([])
            room = decoding.chunk_batches * decoding.rows(len(prompt.input_ids))
        found[-1].append(prompt)
        room -= 1
    return found


def generate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Prompt],
    decoding: Decoding,
    sink: PredictionSink,
) -> None:
    """Answer every prompt and hand each finished chunk to the sink; chunks that it has already are left alone.

    An answer ends with the template's end token or any that the model's generation configuration names, after
    `max_new_tokens`, or when it loops. Its text is made of the new tokens alone; `new_tokens` does not count the end.
    Where memory runs short, half as many answers are written at a time from there on, and the chunks stay as they are.

    Raises:
        InputError: a prompt and its answer do not fit into the model's context.
        RunError: a prompt is empty, an id comes twice, or the model's output is not a number.
        StoppedError: the sink's `stop` was asked to; finished chunks are kept.
    """
    _check(model, prompts, decoding.max_new_tokens)
    writer, done = _Writer(model, _end_tokens(model, tokenizer), decoding, sink), sink.done()
    with _evaluating(model):
        for number, chunk in enumerate(chunks(prompts, decoding)):
            if number >= done:
                answers = writer.answer(number, [prompt.input_ids for prompt in chunk])
                sink.write(number, [_predict(tokenizer, *pair) for pair in zip(chunk, answers, strict=True)])


@dataclass
class _Writer:
    """Answers chunk after chunk, and fewer at a time from when memory runs short."""

    model: "PreTrainedModel"
    ends: frozenset[int]
    decoding: Decoding
    sink: PredictionSink
    parts: int = 1
    """Into which what was planned to be answered at a time is divided."""

    def answer(self, number: int, prompts: Sequence[Sequence[int]]) -> list[Answer]:
        planned, limit = self.decoding.rows(max(map(len, prompts))), self.sink.limit_bytes
        while True:
            rows = min(max(1, planned // self.parts), len(prompts))
            with PeakMemory() as memory:
                held = process_peak_bytes()  # what fewer answers would not take away
                answers = self._try(number, prompts, rows)
            if answers and (rows == 1 or limit is None or memory.peak_bytes <= max(limit, held)):
                return answers
            self.parts = planned // (rows // 2)
            release_memory()
            self.sink.lessen(planned // self.parts)
            if answers:  # more was held than may be, and there was as much
                return answers

    def _try(self, number: int, prompts: Sequence[Sequence[int]], rows: int) -> list[Answer] | None:
        """None where a GPU has no room for so many; its error is let go of here, for its frames hold the batch."""
        fewer, seed = self.decoding.model_copy(update={"batch_size": rows}), self.decoding.seed + number
        try:
            return decode(self.model, prompts, self.ends, fewer, seed, self.sink.stop)
        except RuntimeError as error:
            if rows == 1 or not is_out_of_memory(error):
                raise
            return None


def probe_generation(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Prompt],
    decoding: Decoding,
    *,
    new_tokens: int,
) -> GenerationTiming:
    """Time the first chunk of these prompts: read it, then write `new_tokens` tokens to every row, end tokens or not.

    They are written in the middle of the longest answer: each takes longer than the one before, as the cache grows.

    Raises:
        InputError: as `generate`.
        RunError: there is no prompt; otherwise as `generate`.
    """
    import torch

    _check(model, prompts, new_tokens)
    if not prompts:
        raise RunError("no prompt to time answers with", hint="ask for at least one test pair")
    ids = [prompt.input_ids for prompt in chunks(prompts, decoding)[0]]
    middle = max(0, decoding.max_new_tokens - new_tokens) // 2
    answers = [Answer(row, RepeatBan(0), Random(row), ids=list(range(middle))) for row in range(len(ids))]
    with _evaluating(model), torch.inference_mode():
        # The first call of all loads kernels; a GPU has others for many rows, and is quick enough to read them twice.
        Batch(model, ids if model.device.type == "cuda" else [ids[0][:1]]).start().tolist()
        batch = Batch(model, ids)
        began = time.perf_counter()
        tokens = batch.start().argmax(dim=-1)
        tokens.tolist()  # waits for the device, as a real step does to look for end tokens
        read = time.perf_counter()
        batch.lengthen(middle)
        began_writing = time.perf_counter()
        for _ in range(new_tokens):
            tokens = batch.go_on(tokens).argmax(dim=-1)
            for answer, token in zip(answers, tokens.tolist(), strict=True):
                answer.take(token, (), decoding.max_new_tokens)  # a GPU waits meanwhile
        written = time.perf_counter()
    return GenerationTiming(
        rows=len(ids),
        prompt_tokens=sum(map(len, ids)),
        new_tokens=len(ids) * new_tokens,
        prefill_seconds=read - began,
        decode_seconds=written - began_writing,
    )


def _predict(tokenizer: "PreTrainedTokenizerBase", prompt: Prompt, answer: Answer) -> Prediction:
    return Prediction(
        id=prompt.id,
        text=decode_answer(tokenizer, answer.ids),
        stopped=answer.stopped,
        prompt_tokens=len(prompt.input_ids),
        new_tokens=len(answer.ids),
        shown=prompt.shown,
    )


def _end_tokens(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    named = model.generation_config.eos_token_id
    listed = named if isinstance(named, list) else [named]
    return frozenset([end_token_id(tokenizer), *(token for token in listed if token is not None)])


def _check(model: "PreTrainedModel", prompts: Sequence[Prompt], max_new_tokens: int) -> None:
    """Before the first chunk, so that no hour of work is lost to the last one."""
    twice = [id for id, count in Counter(prompt.id for prompt in prompts).items() if count > 1]
    if twice:
        raise RunError(f"two prompts have the id {twice[0]!r}", hint="give every pair an id of its own")
    # Not every architecture has a limit; one with rotary positions would go past it and write nonsense.
    context = model.config.get_text_config().to_dict().get("max_position_embeddings")
    for prompt in prompts:
        length = len(prompt.input_ids)
        if length == 0:
            raise RunError(f"the prompt of {prompt.id!r} is empty", hint="build prompts with encode_prompt")
        if context is not None and length + max_new_tokens > context:
            raise InputError(
                f"the prompt of {prompt.id!r} has {length} tokens and its answer up to {max_new_tokens}; "
                f"the model's context holds {context}",
                hint="lower generate.max_new_tokens or generate.few_shot_k, or choose a model with a longer context",
            )


@contextmanager
def _evaluating(model: "PreTrainedModel") -> Iterator[None]:
    """Dropout off, and afterwards as it was.

    The head is handed the last column of the prompts laid out anew. With a slice PyTorch takes one product per row and,
    where the head's weights are frozen, as after a merge, and in bfloat16 on a CPU, copies them for every row: 3.4 GB
    for 60 answers of SmolLM2-135M.
    """
    head, training = model.get_output_embeddings(), model.training
    laid_out = head.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(), *inputs[1:]))
    model.eval()
    try:
        yield
    finally:
        model.train(training)
        laid_out.remove()
