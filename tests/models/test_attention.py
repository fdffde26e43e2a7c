"""Attention gives PyTorch as many heads of keys as of queries where only its slow kernel could do with fewer."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from vademecum.config import ModelConfig
from vademecum.cuda import shares_heads
from vademecum.models import attention, load_base
from vademecum.models.attention import attend, heads_repeated

MODULE: Any = SimpleNamespace(num_key_value_groups=3, is_causal=True)


@pytest.fixture
def given_heads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """Heads of query and key in every call of PyTorch's attention."""
    seen: list[tuple[int, int]] = []
    plain = torch.nn.functional.scaled_dot_product_attention

    def note(query: torch.Tensor, key: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        seen.append((query.shape[1], key.shape[1]))
        return plain(query, key, *rest, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", note)
    yield seen


def tensors(tokens: int = 7) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, heads, tokens, 8, requires_grad=True) for heads in (6, 2, 2)]


@pytest.mark.parametrize(
    ("capability", "dtype", "shared"),
    [
        ((7, 5), "float16", False),
        ((8, 0), "bfloat16", True),
        ((8, 6), "float16", True),
        ((9, 0), "float32", False),
    ],
)
def test_heads_are_shared_where_flash_attention_is(
    capability: tuple[int, int], dtype: str, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert shares_heads(dtype) is shared
    query = torch.zeros(1, 2, 3, 8, dtype=getattr(torch, dtype))
    assert not attention._must_repeat(query), "nothing is repeated on a CPU"
    pretended: Any = SimpleNamespace(is_cuda=True, dtype=query.dtype, device="cuda:0")
    assert attention._must_repeat(pretended) is not shared


def test_on_a_cpu_it_is_transformers_own_bit_for_bit(given_heads: list[tuple[int, int]]) -> None:
    query, key, value = tensors()
    ours = attend(MODULE, query, key, value, None, scaling=0.3)[0]
    theirs = sdpa_attention_forward(MODULE, query, key, value, None, scaling=0.3)[0]
    assert torch.equal(ours, theirs)
    assert given_heads == [(6, 2), (6, 2)]


@pytest.mark.parametrize("tokens", [1, 7])
def test_repeated_heads_say_and_learn_the_same(
    tokens: int, given_heads: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for repeated in (False, True):
        monkeypatch.setattr(attention, "_must_repeat", lambda _, on=repeated: on)
        query, key, value = tensors(tokens)
        out = attend(MODULE, query, key, value, None, scaling=0.3)[0]
        out.square().sum().backward()  # type: ignore[no-untyped-call]
        found.append([out, query.grad, key.grad, value.grad])
    assert given_heads == [(6, 2), (6, 6)]
    for one, other in zip(*found, strict=True):
        assert one is not None and other is not None
        assert one.shape == other.shape
        assert torch.allclose(one, other, atol=1e-5)


def test_with_a_mask_it_is_left_to_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[int, ...]] = []
    monkeypatch.setattr(attention, "_must_repeat", lambda _: True)

    def note(_module: object, query: torch.Tensor, key: torch.Tensor, *_: object) -> tuple[torch.Tensor, None]:
        given.append(key.shape)
        return query, None

    monkeypatch.setattr("transformers.integrations.sdpa_attention.sdpa_attention_forward", note)
    query, key, value = tensors()
    attend(MODULE, query, key, value, torch.ones(2, 1, 7, 7, dtype=torch.bool))
    assert given == [key.shape]


def test_a_loaded_model_attends_so(tiny_checkpoint: Path, given_heads: list[tuple[int, int]]) -> None:
    model = load_base(tiny_checkpoint, ModelConfig(), dtype="float32", device="cpu")
    assert model.config._attn_implementation == "sdpa"
    heads, shared = model.config.num_attention_heads, model.config.num_key_value_heads
    assert shared < heads
    ids = torch.tensor([[1, 40, 50, 60]])
    given_heads.clear()
    plain = model(input_ids=ids).logits
    layers = len(given_heads)
    assert set(given_heads) == {(heads, shared)}
    with heads_repeated(True):
        repeated = model(input_ids=ids).logits
    assert set(given_heads[layers:]) == {(heads, heads)}
    assert torch.allclose(plain, repeated, atol=1e-5)
