"""Packed examples are attended to each by itself, by whatever kernel the machine has."""

from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tests.training.tiny import PAD, Build, examples
from transformers import AutoModelForCausalLM, FalconConfig, MistralConfig, PhimoeConfig, StableLmConfig

from vademecum.errors import ConfigError
from vademecum.models.attention import heads_repeated
from vademecum.training import packed
from vademecum.training.batching import collate, collate_packed
from vademecum.training.engine import unwrapped_after
from vademecum.training.loss import summed_loss
from vademecum.training.packed import attend, attend_within_examples

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"),
]
LENGTHS = (5, 1, 9, 4)


def windowed() -> PeftModel:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=2048, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=6, initializer_range=0.3,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    return get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=False))


def gradients(model: PeftModel, batches: Sequence[dict[str, Any]]) -> tuple[float, torch.Tensor]:
    """The summed loss of all batches, and what it says to the adapter, in one vector."""
    model.zero_grad()
    losses = [summed_loss(model, batch) for batch in batches]
    torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
    found = [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
    return sum(loss.item() for loss in losses), torch.cat(found)


@pytest.mark.parametrize("window", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_examples_train_as_they_would_alone(build: Build, window: bool, checkpointing: bool) -> None:
    model, rows = windowed() if window else build(warm=True), examples(9)
    assert max(row.length for row in rows) > 6
    loss, alone = gradients(model, [collate([row], PAD) for row in rows])
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    with unwrapped_after(model):
        attend_within_examples(model)
        together, found = gradients(model, [collate_packed(rows, PAD)])
        padded, _ = gradients(model, [collate(rows, PAD)])
    assert together == pytest.approx(loss, rel=1e-5) == pytest.approx(padded, rel=1e-5)
    assert (found - alone).norm() < 1e-4 * alone.norm()


def test_no_layer_is_given_a_mask_while_rows_are_packed(build: Build) -> None:
    model = build()
    masks: list[object] = []
    for layer in model.get_base_model().model.layers:
        layer.self_attn.register_forward_pre_hook(
            lambda _module, _inputs, given: masks.append(given["attention_mask"]), with_kwargs=True
        )
    batch = collate_packed(examples(5), PAD)
    with unwrapped_after(model):
        attend_within_examples(model)
        summed_loss(model, batch)
    assert masks and all(mask is None for mask in masks)
    masks.clear()
    summed_loss(model, batch)
    assert all(isinstance(mask, torch.Tensor) for mask in masks), "afterwards attention should be transformers' own"


def test_a_model_whose_own_code_attends_is_refused() -> None:
    config = FalconConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    with pytest.raises(ConfigError, match="falcon model cannot be packed: its own code attends"):
        attend_within_examples(model)


SMALL = {
    "vocab_size": 2048, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (StableLmConfig(**SMALL), "does not tell its attention where examples end"),
        (PhimoeConfig(**SMALL, sliding_window=8, num_local_experts=2), "does not tell its attention"),
    ],
)
def test_a_model_that_keeps_from_its_attention_what_it_must_know_is_refused(config: Any, why: str) -> None:
    """Or its examples would see one another, or more than their window, and nobody would notice."""
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    with unwrapped_after(model), pytest.raises(ConfigError, match=why):
        attend_within_examples(model)
        summed_loss(model, collate_packed(examples(9), PAD))


def plain_attention(query: Any, key: Any, value: Any, *ends: Any, window: tuple[int, int], scale: float) -> Any:
    """PyTorch's kernel for examples of different lengths, written out as its documentation says: CUDA alone has it."""
    left, right = window
    assert right == 0
    starts, starts_of_keys, *_ = ends
    assert starts.dtype == torch.int32 and starts.equal(starts_of_keys)
    repeats = query.shape[1] // key.shape[1]
    whole = torch.empty_like(query)
    for start, end in pairwise(starts.tolist()):
        distance = torch.arange(end - start)[:, None] - torch.arange(end - start)
        seen = (distance >= 0) & ((distance <= left) | torch.tensor(left < 0))
        for head in range(query.shape[1]):
            scores = query[start:end, head] @ key[start:end, head // repeats].T * scale
            shares = scores.masked_fill(~seen, -torch.inf).softmax(-1)
            whole[start:end, head] = shares @ value[start:end, head // repeats]
    return whole


@pytest.fixture(params=["torch 2.11", "torch 2.12"])
def varlen_on_the_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The longest examples that the kernel was told of; it took its argument for shared heads in torch 2.12."""
    longest: list[tuple[int, int]] = []

    def older(query: Any, key: Any, value: Any, *ends: Any, scale: float, window_size: tuple[int, int]) -> Any:
        assert query.shape == key.shape == value.shape
        longest.append(ends[2:])
        return plain_attention(query, key, value, *ends, window=window_size, scale=scale)

    def newer(
        query: Any, key: Any, value: Any, *ends: Any, scale: float, window_size: tuple[int, int], enable_gqa: bool
    ) -> Any:
        assert enable_gqa and key.shape[1] < query.shape[1]
        longest.append(ends[2:])
        return plain_attention(query, key, value, *ends, window=window_size, scale=scale)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", older if "2.11" in request.param else newer)
    monkeypatch.setattr(packed, "_has_varlen", lambda *_: True)
    return longest


@pytest.mark.parametrize("window", [None, 3])
def test_one_kernel_for_all_examples_does_what_one_for_each_does(
    varlen_on_the_cpu: list[tuple[int, int]], window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = torch.nn.Module()
    module.num_key_value_groups = 3  # type: ignore[assignment]
    module.is_causal = True  # type: ignore[assignment]
    torch.manual_seed(1)
    query, key, value = (torch.randn(1, heads, sum(LENGTHS), 8) for heads in (6, 2, 2))

    def attended() -> torch.Tensor:
        return attend(module, query, key, value, None, example_lengths=LENGTHS, sliding_window=window, scaling=0.3)[0]

    at_once = attended()
    assert varlen_on_the_cpu == [(9, 9)]
    monkeypatch.setattr(packed, "_has_varlen", lambda *_: False)
    one_by_one = attended()
    assert at_once.shape == one_by_one.shape == (1, sum(LENGTHS), 6, 8)
    assert torch.allclose(at_once, one_by_one, atol=1e-5)
    for start, end in ((0, 5), (5, 6), (6, 15), (15, 19)):  # and neither looks beyond its example
        its, keys, values = (tensor[:, :, start:end] for tensor in (query, key, value))
        alone = attend(module, its, keys, values, None, example_lengths=None, sliding_window=window, scaling=0.3)[0]
        assert torch.allclose(one_by_one[:, start:end], alone, atol=1e-5)


def test_where_heads_cannot_be_shared_packed_examples_get_them_repeated(build: Build) -> None:
    model, batch = build(warm=True), collate_packed(examples(5), PAD)
    with unwrapped_after(model):
        attend_within_examples(model)
        shared, expected = gradients(model, [batch])
        with heads_repeated(True):
            repeated, found = gradients(model, [batch])
    assert repeated == pytest.approx(shared, rel=1e-5)
    assert (found - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize(
    ("changed", "capability", "taken"),
    [
        ({}, (8, 0), True),
        ({"is_cuda": False}, (8, 0), False),
        ({"dtype": torch.float32}, (8, 0), False),
        ({"shape": (1, 2, 4, 60)}, (8, 0), False),  # no multiple of eight
        ({"shape": (1, 2, 4, 512)}, (8, 0), False),
        ({}, (7, 5), False),
    ],
)
def test_the_one_kernel_is_for_16_bits_on_cuda(
    changed: dict[str, Any], capability: tuple[int, int], taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    on_a_card = {"is_cuda": True, "dtype": torch.bfloat16, "shape": (1, 2, 4, 64), "device": "cuda:0"}
    query: Any = SimpleNamespace(**on_a_card | changed)
    other: Any = SimpleNamespace(**on_a_card | {"dtype": torch.float16})
    assert packed._has_varlen(query, query, query) is taken
    assert not packed._has_varlen(query, other, query)
