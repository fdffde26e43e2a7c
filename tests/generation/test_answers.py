"""Predictions come out the same however the prompts are ordered and wherever a run was broken off."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from vademecum.config.sections import PromptConfig
from vademecum.errors import InputError, RunError, StoppedError
from vademecum.generation import Decoding, Prompt, chunks, generate, probe_generation
from vademecum.generation.answers import _Writer
from vademecum.generation.decoding import Answer, decode
from vademecum.generation.repetition import RepeatBan
from vademecum.hardware import PeakMemory, process_memory_bytes
from vademecum.prompts import build_messages, decode_answer, encode_prompt
from vademecum.records import Prediction
from vademecum.stopping import Stop
from vademecum.testing import tiny_pairs

GREEDY = Decoding(max_new_tokens=12, batch_size=3)


class Memory:
    """A sink that remembers, and can break."""

    def __init__(self, breaks_at: int | None = None) -> None:
        self.chunks: list[list[Prediction]] = []
        self.breaks_at = breaks_at
        self.stop = Stop()
        self.limit_bytes: int | None = None
        self.lessened: list[int] = []

    def lessen(self, rows: int) -> None:
        self.lessened.append(rows)

    def done(self) -> int:
        return len(self.chunks)

    def write(self, chunk: int, predictions: list[Prediction]) -> None:
        if chunk == self.breaks_at:
            raise KeyboardInterrupt
        assert chunk == len(self.chunks)
        self.chunks.append(predictions)

    @property
    def predictions(self) -> dict[str, Prediction]:
        return {prediction.id: prediction for chunk in self.chunks for prediction in chunk}


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Path) -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tiny_checkpoint)
    return loaded


@pytest.fixture
def model(tiny_checkpoint: Path) -> PreTrainedModel:
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    return loaded.eval()


@pytest.fixture(scope="module")
def prompts(tokenizer: PreTrainedTokenizerBase) -> list[Prompt]:
    return [
        Prompt(pair.id, encode_prompt(tokenizer, build_messages(pair.question, PromptConfig())), (f"shown {pair.id}",))
        for pair in tiny_pairs(8)
    ]


def test_the_heads_weights_are_not_copied_for_every_row(tokenizer: PreTrainedTokenizerBase) -> None:
    """As PyTorch does in bfloat16 where they are frozen, as a merged adapter leaves them: 34 MB times 40 rows here."""
    shape = LlamaConfig(
        vocab_size=32_768,
        hidden_size=512,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    frozen = LlamaForCausalLM(shape).bfloat16().requires_grad_(False)
    prompts = [Prompt(str(row), [3, 4 + row, 5], ()) for row in range(40)]
    with PeakMemory() as memory:
        before = process_memory_bytes()
        generate(frozen, tokenizer, prompts, Decoding(max_new_tokens=2, batch_size=40), Memory())
    assert memory.peak_bytes - before < 0.5e9


def end_everywhere(model: PreTrainedModel, tokens: int | list[int]) -> None:
    """Name end tokens in the generation configuration."""
    assert model.generation_config is not None
    model.generation_config.eos_token_id = tokens


@given(
    st.lists(st.integers(min_value=1, max_value=40), max_size=30),
    st.integers(min_value=1, max_value=7),
    st.integers(min_value=1, max_value=3),
    st.integers(),
)
def test_chunks_are_fixed_by_prompts_and_batch_size(
    lengths: list[int], batch_size: int, chunk_batches: int, seed: int
) -> None:
    prompts = [Prompt(f"{i:02}", [1] * length) for i, length in enumerate(lengths)]
    decoding = Decoding(max_new_tokens=5, batch_size=batch_size, chunk_batches=chunk_batches)
    found = chunks(prompts, decoding)
    flat = [prompt for chunk in found for prompt in chunk]
    assert flat == sorted(prompts, key=lambda prompt: (-len(prompt.input_ids), prompt.id))
    assert [len(chunk) for chunk in found[:-1]] == [batch_size * chunk_batches] * len(found[:-1])
    shuffled = random.Random(seed).sample(prompts, len(prompts))
    changed = decoding.model_copy(update={"max_new_tokens": 9, "temperature": 1.0, "seed": seed})
    assert chunks(shuffled, changed) == found


def test_long_prompts_are_read_few_at_a_time() -> None:
    prompts = [Prompt(f"{i}", [1] * length) for i, length in enumerate([20_000, 8_000, 8_000, 8_000, 10, 10])]
    sizes = [[len(prompt.input_ids) for prompt in chunk] for chunk in chunks(prompts, Decoding(max_new_tokens=1))]
    assert sizes == [[20_000], [8_000, 8_000], [8_000, 10], [10]]


def test_predictions_carry_what_is_known_of_them(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt]
) -> None:
    sink = Memory()
    generate(model, tokenizer, prompts, GREEDY, sink)
    assert set(sink.predictions) == {prompt.id for prompt in prompts}
    for prompt in prompts:
        prediction = sink.predictions[prompt.id]
        assert prediction.prompt_tokens == len(prompt.input_ids)
        assert prediction.shown == prompt.shown
        assert prediction.new_tokens == 12 if prediction.stopped == "length" else prediction.new_tokens < 12


def test_where_a_gpu_is_full_fewer_answers_are_written_at_a_time_and_they_are_the_same(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, halved = Memory(), Memory()
    decoding = GREEDY.model_copy(update={"batch_size": 5})
    generate(model, tokenizer, prompts, decoding, whole)

    def full(
        model: PreTrainedModel, prompts: list[list[int]], ends: frozenset[int], asked: Decoding, *rest: Any
    ) -> Any:
        if asked.batch_size > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(model, prompts, ends, asked, *rest)

    monkeypatch.setattr("vademecum.generation.answers.decode", full)
    generate(model, tokenizer, prompts, decoding, halved)
    assert halved.lessened == [2, 1]
    assert halved.chunks == whole.chunks


def test_fewer_at_a_time_is_fewer_than_were_tried_and_no_fewer_of_short_prompts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def full(
        model: PreTrainedModel, prompts: list[list[int]], ends: frozenset[int], asked: Decoding, *rest: Any
    ) -> Any:
        tried.append(asked.batch_size)
        if len(prompts[0]) > 1000 or asked.batch_size > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [Answer(row, RepeatBan(0), random.Random(row)) for row in range(len(prompts))]

    monkeypatch.setattr("vademecum.generation.answers.decode", full)
    writer = _Writer(model, frozenset(), Decoding(max_new_tokens=9, batch_size=256), Memory())
    writer.answer(0, [[1]] * 16)  # of 256 that were planned there are no more
    assert tried == [16, 8, 4]
    tried.clear()
    writer.parts = 1
    with pytest.raises(torch.OutOfMemoryError):
        writer.answer(1, [[1] * 8000] * 2)
    writer.answer(2, [[1]] * 100)
    assert tried == [2, 1, 100, 51, 25, 12, 6, 3]


def test_where_not_even_one_answer_fits_the_error_comes_through(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("vademecum.generation.answers.decode", full)
    sink = Memory()
    with pytest.raises(torch.OutOfMemoryError):
        generate(model, tokenizer, prompts, GREEDY, sink)
    assert sink.lessened == [1]


@pytest.mark.parametrize(("held", "lessened"), [(1, [1]), (10**15, [])])
def test_a_process_that_holds_more_than_it_may_goes_on_with_fewer_at_a_time(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Prompt],
    monkeypatch: pytest.MonkeyPatch,
    held: int,
    lessened: list[int],
) -> None:
    monkeypatch.setattr("vademecum.generation.answers.process_peak_bytes", lambda: held)
    whole, limited = Memory(), Memory()
    generate(model, tokenizer, prompts, GREEDY, whole)
    limited.limit_bytes = 1000
    generate(model, tokenizer, prompts, GREEDY, limited)
    assert limited.lessened == lessened
    assert limited.chunks == whole.chunks


def test_neither_prompt_nor_end_token_gets_into_the_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt]
) -> None:
    batch = torch.tensor([prompts[0].input_ids])
    with torch.inference_mode():
        first = int(model(batch).logits[0, -1].argmax())
        second = int(model(torch.cat([batch, torch.tensor([[first]])], dim=1)).logits[0, -1].argmax())
    assert first != second
    sink = Memory()
    end_everywhere(model, [second])
    generate(model, tokenizer, prompts[:1], GREEDY, sink)
    (prediction,) = sink.predictions.values()
    assert prediction.text == decode_answer(tokenizer, [first])
    assert (prediction.stopped, prediction.new_tokens) == ("end_token", 1)
    sink = Memory()
    end_everywhere(model, first)
    generate(model, tokenizer, prompts[:1], GREEDY, sink)
    (prediction,) = sink.predictions.values()
    assert (prediction.text, prediction.stopped, prediction.new_tokens) == ("", "end_token", 0)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("breaks_at", [0, 1, 2])
def test_a_broken_run_goes_on_and_ends_the_same(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Prompt],
    temperature: float,
    breaks_at: int,
) -> None:
    decoding = GREEDY.model_copy(update={"temperature": temperature, "seed": 5})
    whole, broken = Memory(), Memory(breaks_at)
    generate(model, tokenizer, prompts, decoding, whole)
    with pytest.raises(KeyboardInterrupt):
        generate(model, tokenizer, prompts, decoding, broken)
    assert broken.done() == breaks_at
    broken.breaks_at = None
    generate(model, tokenizer, prompts[::-1], decoding, broken)
    assert [row.model_dump_json() for chunk in broken.chunks for row in chunk] == [
        row.model_dump_json() for chunk in whole.chunks for row in chunk
    ]


def test_dropout_is_off_while_answering_and_on_again_afterwards(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt]
) -> None:
    model.config.attention_dropout = 0.9
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    evaluating, training = Memory(), Memory()
    generate(model, tokenizer, prompts, GREEDY, evaluating)
    model.train()
    generate(model, tokenizer, prompts, GREEDY, training)
    assert model.training
    assert evaluating.chunks == training.chunks
    with pytest.raises(KeyboardInterrupt):
        generate(model, tokenizer, prompts, GREEDY, Memory(breaks_at=0))
    assert model.training


def test_no_prompts_no_chunks(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    sink = Memory()
    generate(model, tokenizer, [], GREEDY, sink)
    assert sink.chunks == []


@pytest.mark.parametrize(
    ("prompts", "error", "message"),
    [
        ([Prompt("a", [5]), Prompt("a", [6])], RunError, "two prompts have the id 'a'"),
        ([Prompt("a", [5]), Prompt("b", [])], RunError, "the prompt of 'b' is empty"),
        (
            [Prompt("a", [5]), Prompt("b", [6] * 2040)],
            InputError,
            "the prompt of 'b' has 2040 tokens and its answer up to 12; the model's context holds 2048",
        ),
    ],
)
def test_prompts_that_cannot_be_answered_are_named_before_the_first_answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Prompt],
    error: type[Exception],
    message: str,
) -> None:
    sink = Memory()
    with pytest.raises(error, match=message):
        generate(model, tokenizer, prompts, GREEDY, sink)
    assert sink.chunks == []


def test_probe_writes_on_past_end_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt]
) -> None:
    end_everywhere(model, list(range(400)))
    timing = probe_generation(model, tokenizer, prompts, GREEDY, new_tokens=7)
    (longest, *_) = chunks(prompts, GREEDY)
    assert timing.rows == 3
    assert timing.new_tokens == 21
    assert timing.prompt_tokens == sum(len(prompt.input_ids) for prompt in longest)
    assert timing.prefill_seconds > 0
    assert timing.seconds == timing.prefill_seconds + timing.decode_seconds


def test_probe_writes_in_the_middle_of_the_longest_answer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt]
) -> None:
    widths: list[int] = []
    model.register_forward_pre_hook(
        lambda _, __, given: widths.append(given["attention_mask"].shape[1]), with_kwargs=True
    )
    (longest, *_) = chunks(prompts, GREEDY)
    read = max(len(prompt.input_ids) for prompt in longest)
    probe_generation(model, tokenizer, prompts, GREEDY, new_tokens=4)
    middle = (GREEDY.max_new_tokens - 4) // 2
    assert widths[1:] == [read, *(read + middle + step for step in range(1, 5))]


def test_probe_needs_a_prompt(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(RunError, match="no prompt"):
        probe_generation(model, tokenizer, [], GREEDY, new_tokens=7)


def test_a_stop_inside_a_chunk_loses_that_chunk_alone(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt]
) -> None:
    class Countdown(Stop):
        looks = 0

        @property
        def asked(self) -> str | None:
            self.looks += 1
            return "enough" if self.looks == 18 else None  # at most 12 tokens to a chunk: in the second

    whole, stopped = Memory(), Memory()
    generate(model, tokenizer, prompts, GREEDY, whole)
    stopped.stop = Countdown()
    with pytest.raises(StoppedError, match="enough"):
        generate(model, tokenizer, prompts, GREEDY, stopped)
    assert len(stopped.chunks) == 1
    stopped.stop = Stop()
    generate(model, tokenizer, prompts, GREEDY, stopped)
    assert stopped.chunks == whole.chunks
