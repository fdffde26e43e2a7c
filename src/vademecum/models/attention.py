"""Attention that never writes out all scores, the square of a row, on any CUDA device.

Several heads of the query may share one of key and value. Where there is no mask, transformers leaves that to PyTorch,
and of the fast kernels on CUDA flash attention alone does it. Without it the memory-efficient kernel is left, which
wants as many heads everywhere (torch <= 2.13); where it is not given them, PyTorch computes by plain products, keeps
the scores in float32 for the way back, and a GPU of 16 GB is full. So keys and values are repeated there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from vademecum.cuda import shares_heads

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

_repeated: ContextVar[bool] = ContextVar("_repeated", default=False)


def register_attention() -> None:
    """Let every model of transformers that attends by `sdpa` do so by `attend`, from here on in this process."""
    from transformers import AttentionInterface

    AttentionInterface.register("sdpa", attend)


@contextmanager
def heads_repeated(on: bool) -> Iterator[None]:
    """If `on`, repeat keys and values in the `with` block whatever the device, to count what that takes."""
    before = _repeated.set(on)
    try:
        yield
    finally:
        _repeated.reset(before)


def attend(
    module: "Module",
    query: "Tensor",
    key: "Tensor",
    value: "Tensor",
    attention_mask: "Tensor | None",
    **options: Any,  # noqa: ANN401  whatever the model hands to its attention
) -> tuple["Tensor", None]:
    """transformers' interface, and its own function behind it: `query`, `key` and `value` (rows, heads, tokens, width)
    to (rows, tokens, heads, width)."""
    from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

    groups = query.shape[1] // key.shape[1]
    # With a mask transformers repeats them itself.
    if groups > 1 and attention_mask is None and (_repeated.get() or _must_repeat(query)):
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    attended: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return attended


def _must_repeat(query: "Tensor") -> bool:
    return query.is_cuda and not shares_heads(str(query.dtype).removeprefix("torch."), query.device)
