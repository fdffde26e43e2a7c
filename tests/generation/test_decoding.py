"""The decode loop writes what a model without cache, padding and batch would write, and stops where it should."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PreTrainedModel

from vademecum.errors import RunError
from vademecum.generation.decoding import Answer, Decoding, _choose, decode
from vademecum.stopping import Stop

PROMPTS = [[5, 9, 33], [70, 8], list(range(100, 130)), [44], [12, 200, 7, 7, 7, 90, 31], [301, 302]]
NEAR_TIE = 1e-4


class Scripted(torch.nn.Module):
    """Says after each token what the script has for it, otherwise the next higher one."""

    def __init__(self, script: Mapping[int, int], vocabulary: int = 500) -> None:
        super().__init__()
        self.config = LlamaConfig(num_hidden_layers=1)
        self.device = torch.device("cpu")
        self.batches: list[int] = []
        self._next = torch.arange(1, vocabulary + 1) % vocabulary
        for token, following in script.items():
            self._next[token] = following
        self._vocabulary = vocabulary

    def forward(self, input_ids: torch.Tensor, **_: object) -> SimpleNamespace:
        self.batches.append(len(input_ids))
        logits = torch.nn.functional.one_hot(self._next[input_ids[:, -1:]], self._vocabulary)
        return SimpleNamespace(logits=logits.float())


def write(
    model: PreTrainedModel | Scripted, prompts: Sequence[Sequence[int]], decoding: Decoding, ends: Sequence[int] = ()
) -> list[Answer]:
    return decode(model, prompts, ends, decoding, decoding.seed, Stop())


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> PreTrainedModel:
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    return loaded.eval()


def plain_logits(model: PreTrainedModel, prompt: Sequence[int], ids: Sequence[int]) -> torch.Tensor:
    """What the model says before each of `ids`, from one forward pass without cache, padding or batch."""
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([[*prompt, *ids]])).logits[0]
    return logits[len(prompt) - 1 : -1]


def assert_same(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], ones: Sequence[Answer], others: Sequence[Answer]
) -> None:
    """But for near ties, after which two answers may go on as they like."""
    for prompt, one, other in zip(prompts, ones, others, strict=True):
        if one.ids != other.ids:
            split = next(i for i, (a, b) in enumerate(zip(one.ids, other.ids, strict=False)) if a != b)
            logits = plain_logits(model, prompt, one.ids[: split + 1])[split]
            assert abs(logits[one.ids[split]] - logits[other.ids[split]]) < NEAR_TIE


def test_every_greedy_token_is_the_likeliest_of_a_plain_forward_pass(model: PreTrainedModel) -> None:
    for prompt, answer in zip(PROMPTS, write(model, PROMPTS, Decoding(max_new_tokens=50)), strict=True):
        logits = plain_logits(model, prompt, answer.ids)
        chosen = logits.gather(1, torch.tensor(answer.ids)[:, None])[:, 0]
        assert len(answer.ids) == 50
        assert (logits.max(dim=1).values - chosen).max() < NEAR_TIE


def test_a_batch_writes_what_one_prompt_at_a_time_does(model: PreTrainedModel) -> None:
    decoding = Decoding(max_new_tokens=90, no_repeat_ngram_size=3)
    alone = [write(model, [prompt], decoding, ends=range(60))[0] for prompt in PROMPTS]
    together = write(model, PROMPTS, decoding, ends=range(60))
    assert len({len(answer.ids) for answer in alone}) > 2, "rows should leave the batch at different times"
    assert_same(model, PROMPTS, alone, together)


def test_greedy_answers_are_those_of_transformers(model: PreTrainedModel) -> None:
    prompt = PROMPTS[2]
    reference = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), do_sample=False, max_new_tokens=40,
        eos_token_id=-1,
    )  # fmt: skip
    assert write(model, [prompt], Decoding(max_new_tokens=40))[0].ids == reference[0, len(prompt) :].tolist()


def test_why_an_answer_stopped() -> None:
    scripted = Scripted({50: 2, 102: 100})
    prompts = [[9, 47], [100], [300], [50]]
    ended, looping, long, empty = write(scripted, prompts, Decoding(max_new_tokens=80), ends=[2])
    assert (ended.ids, ended.stopped) == ([48, 49, 50], "end_token")
    assert (looping.ids, looping.stopped) == ([101, 102, 100] * 20, "loop")
    assert (long.ids, long.stopped) == (list(range(301, 381)), "length")
    assert (empty.ids, empty.stopped) == ([], "end_token")


def test_an_answer_that_ends_with_its_last_allowed_token_is_cut_by_length() -> None:
    (answer,) = write(Scripted({50: 2}), [[47]], Decoding(max_new_tokens=3), ends=[2])
    assert (answer.ids, answer.stopped) == ([48, 49, 50], "length")


def test_rows_that_have_ended_cost_nothing() -> None:
    scripted = Scripted({50: 2})
    write(scripted, [[47], [40], [50]], Decoding(max_new_tokens=80), ends=[2])
    assert scripted.batches == [3, 2, 2, 2] + [1] * 7


def test_the_next_prompts_take_the_places_of_rows_that_have_ended() -> None:
    scripted = Scripted({50: 2})
    prompts = [[40], [47], [300], [48], [49], [49]]
    answers = write(scripted, prompts, Decoding(max_new_tokens=11, batch_size=4), ends=[2])
    assert [len(answer.ids) for answer in answers] == [10, 3, 11, 2, 1, 1]
    # One of the four places is free after the third token, and one after the fourth.
    assert scripted.batches == [4, 4, 4, 3, 1, 3, 1, 3] + [2] * 5


@pytest.mark.parametrize("batch_size", [2, 4, 5])
def test_replaced_rows_write_what_they_would_alone(model: PreTrainedModel, batch_size: int) -> None:
    prompts = [[*prompt, number] for number in range(4) for prompt in PROMPTS]
    decoding = Decoding(max_new_tokens=40, no_repeat_ngram_size=3)
    alone = [write(model, [prompt], decoding, ends=range(60))[0] for prompt in prompts]
    widths: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _, __, given: widths.append(given["attention_mask"].shape[1]), with_kwargs=True
    )
    few = decoding.model_copy(update={"batch_size": batch_size})
    together = write(model, prompts, few, ends=range(60))
    hook.remove()
    assert max(widths) <= max(map(len, prompts)) + 40
    assert_same(model, prompts, alone, together)


def test_a_model_that_looks_back_on_a_window_waits_until_its_batch_is_done() -> None:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=500, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=8, initializer_range=0.3,
    )  # fmt: skip
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    decoding = Decoding(max_new_tokens=30, batch_size=2)
    alone = [write(model, [prompt], decoding, ends=range(60))[0] for prompt in PROMPTS]
    assert len({len(answer.ids) for answer in alone}) > 2
    assert_same(model, PROMPTS, alone, write(model, PROMPTS, decoding, ends=range(60)))


def test_ngrams_are_banned_within_the_answer_only() -> None:
    decoding = Decoding(max_new_tokens=7, no_repeat_ngram_size=3)
    (answer,) = write(Scripted({12: 10}), [[10, 11, 12, 10, 11, 12]], decoding)
    assert answer.ids[:5] == [10, 11, 12, 10, 11]
    assert answer.ids[5] != 12


def test_answers_repeat_no_ngram(model: PreTrainedModel) -> None:
    for answer in write(model, PROMPTS, Decoding(max_new_tokens=120, no_repeat_ngram_size=2)):
        pairs = list(zip(answer.ids, answer.ids[1:], strict=False))
        assert len(set(pairs)) == len(pairs)


def test_sampling_follows_the_seed(model: PreTrainedModel) -> None:
    decoding = Decoding(max_new_tokens=20, temperature=1.0, seed=3)
    first, again = (write(model, PROMPTS, decoding) for _ in range(2))
    other = write(model, PROMPTS, decoding.model_copy(update={"seed": 4}))
    assert [answer.ids for answer in first] == [answer.ids for answer in again]
    assert [answer.ids for answer in first] != [answer.ids for answer in other]


def test_the_smallest_nucleus_is_greedy(model: PreTrainedModel) -> None:
    sampled = write(model, PROMPTS, Decoding(max_new_tokens=20, temperature=1.0, top_p=1e-9))
    greedy = write(model, PROMPTS, Decoding(max_new_tokens=20))
    assert [answer.ids for answer in sampled] == [answer.ids for answer in greedy]


@pytest.mark.parametrize(
    ("temperature", "top_p", "shares"),
    [(1.0, 1.0, [0.15, 0.5, 0.05, 0.3]), (1.0, 0.7, [0, 0.625, 0, 0.375]), (0.5, 0.6, [0, 1, 0, 0])],
)
def test_tokens_are_drawn_with_their_probabilities(temperature: float, top_p: float, shares: list[float]) -> None:
    class Biased(Scripted):
        def forward(self, input_ids: torch.Tensor, **_: object) -> SimpleNamespace:
            return SimpleNamespace(logits=torch.tensor([0.15, 0.5, 0.05, 0.3]).log().expand(len(input_ids), 1, 4))

    decoding = Decoding(max_new_tokens=1, temperature=temperature, top_p=top_p)
    drawn = torch.tensor([answer.ids[0] for answer in write(Biased({}), [[1]] * 4000, decoding)])
    assert (drawn.bincount(minlength=4) / 4000).tolist() == pytest.approx(shares, abs=0.03)


class OnAGpu(torch.Tensor):
    """Numbers that pretend to lie on another device than the CPU: on the only one that every machine has."""

    device = torch.device("meta")

    def cpu(self, *_: object) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)


def test_a_drawn_token_lies_where_the_model_does() -> None:
    """Where its cache lies; drawing itself is done on the CPU."""
    logits = torch.randn(3, 10).as_subclass(OnAGpu)
    tokens = _choose(logits, Decoding(max_new_tokens=1, temperature=1.0), [0.1, 0.5, 0.9])
    assert tokens.shape == (3,)
    assert tokens.device == logits.device


def test_output_that_is_not_a_number_stops_the_run() -> None:
    class Broken(Scripted):
        def forward(self, input_ids: torch.Tensor, **_: object) -> SimpleNamespace:
            return SimpleNamespace(logits=torch.full((len(input_ids), 1, 4), float("nan")))

    with pytest.raises(RunError, match="not a number"):
        write(Broken({}), [[1]], Decoding(max_new_tokens=3))


@pytest.mark.parametrize("setting", [{"max_new_tokens": 0}, {"temperature": -1}, {"top_p": 0}, {"batch_size": 0}])
def test_decoding_refuses_what_cannot_be(setting: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Decoding.model_validate({"max_new_tokens": 1, **setting})
