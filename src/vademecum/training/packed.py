"""Attention in a row that holds several examples, each of which sees itself alone.

transformers tells packed examples apart by a mask, a square of the whole row, and with a mask PyTorch's attention
leaves its fast causal kernels. Here every example is attended to by itself: one call of the causal kernel for each, or,
on a GPU that has it, one call of `torch.nn.attention.varlen` for all. Where they end comes in with the model's call, as
`example_lengths`.
"""

from collections.abc import Mapping
from functools import lru_cache
from inspect import signature
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from vademecum.errors import ConfigError
from vademecum.models import attention

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

NAME = "vademecum_packed"
"""As which transformers knows it."""
VARLEN_CAPABILITY = (8, 0)
VARLEN_HEAD_WIDTH = 256
"""What the kernel of `torch.nn.attention.varlen` needs: CUDA of this compute capability, heads up to this width in
multiples of eight, and 16 bits. https://docs.pytorch.org/docs/stable/nn.attention.varlen.html"""


def attend_within_examples(model: Any) -> None:  # noqa: ANN401  PEFT's and transformers' models are untyped here
    """Let `model` take `example_lengths` in its call, a tuple that sums up to the width of its only row.

    Without them it attends causally to rows that are padded on the right, if at all. Undone by
    `attend_as_before`.

    Raises:
        ConfigError: the model's own code attends in another way. Some are found out only when they are called.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    if model.config._attn_implementation != NAME:
        raise _cannot(model.config, "its own code attends")
    # Named in every call, so that a model which does not pass it on to its attention is found out.
    hook = model.register_forward_pre_hook(
        lambda _, args, given: (args, {"example_lengths": None, **given}), with_kwargs=True
    )
    vars(model)[NAME] = (before, hook)


def attend_as_before(model: Any) -> None:  # noqa: ANN401
    """Undo `attend_within_examples`, where it was done."""
    before, hook = vars(model).pop(NAME, (None, None))
    if hook is not None:
        hook.remove()
        model.set_attn_implementation(before)


def attend(
    module: "Module",
    query: "Tensor",
    key: "Tensor",
    value: "Tensor",
    attention_mask: "Tensor | None",
    **options: Any,  # noqa: ANN401  whatever the model hands to its attention
) -> tuple["Tensor", None]:
    """transformers' interface: `query`, `key` and `value` (rows, heads, tokens, width) to (rows, tokens, heads, width).

    A token sees those before it in its example; with the option `sliding_window` only so many, itself included.

    Raises:
        ConfigError: the model's attention is of a kind that this is not.
    """
    import torch

    tokens = query.shape[2]
    _check(getattr(module, "config", None), attention_mask, options, tokens)
    lengths = options.pop("example_lengths") or (tokens,)
    window = options.pop("sliding_window", None)
    if len(lengths) > 1 and not options.get("dropout") and _has_varlen(query, key, value):
        return _attend_at_once(query, key, value, lengths, window, options.get("scaling")), None
    # `split`, for on the way back it joins the parts' gradients; slices would each add a whole one.
    parts = zip(*(torch.split(tensor, list(lengths), dim=2) for tensor in (query, key, value)), strict=True)
    attended = [attention.attend(module, q, k, v, _mask(q, window), **options)[0] for q, k, v in parts]
    return attended[0] if len(attended) == 1 else torch.cat(attended, dim=1), None


def _check(config: Any, mask: "Tensor | None", options: Mapping[str, Any], tokens: int) -> None:  # noqa: ANN401
    if "example_lengths" not in options:
        raise _cannot(config, "it does not tell its attention where examples end")
    if mask is not None:
        raise _cannot(config, "its attention has a mask of its own")
    limits = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    if "sliding_window" not in options and any(limit and tokens > limit for limit in limits):
        raise _cannot(config, "it looks back on a window and does not tell its attention")


def _cannot(config: Any, why: str) -> ConfigError:  # noqa: ANN401
    return ConfigError(
        f"rows of a {getattr(config, 'model_type', 'strange')} model cannot be packed: {why}",
        hint="set train.batching to grouped",
    )


def _mask(query: "Tensor", window: int | None) -> "Tensor | None":
    """The mask that a window needs, of shape (tokens, tokens), where an example is longer than it."""
    import torch

    tokens = query.shape[2]
    if window is None or tokens <= window:
        return None
    return torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).tril().triu(1 - window)


def _has_varlen(query: "Tensor", key: "Tensor", value: "Tensor") -> bool:
    import torch

    width = query.shape[-1]
    return (
        query.is_cuda
        and query.dtype == key.dtype == value.dtype
        and query.dtype in (torch.float16, torch.bfloat16)
        and width == value.shape[-1] <= VARLEN_HEAD_WIDTH
        and width % 8 == 0
        and torch.cuda.get_device_capability(query.device) >= VARLEN_CAPABILITY
    )


def _attend_at_once(
    query: "Tensor",
    key: "Tensor",
    value: "Tensor",
    lengths: tuple[int, ...],
    window: int | None,
    scaling: float | None,
) -> "Tensor":
    from torch.nn.attention.varlen import varlen_attn
    from transformers.integrations.sdpa_attention import repeat_kv

    starts, longest = _starts(lengths, query.device), max(lengths)
    grouped: dict[str, Any] = {"enable_gqa": True}
    if not _takes_groups(varlen_attn):
        grouped, groups = {}, query.shape[1] // key.shape[1]
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    attended: Tensor = varlen_attn(  # type: ignore[assignment]  # a pair only where more is asked for
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        starts,
        starts,
        longest,
        longest,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        **grouped,
    )
    return attended.unsqueeze(0)


@lru_cache(maxsize=1)
def _takes_groups(kernel: Any) -> bool:  # noqa: ANN401
    """Whether several heads of the query may share one of key and value: from torch 2.12 on."""
    return "enable_gqa" in signature(kernel).parameters


@lru_cache(maxsize=4)
def _starts(lengths: tuple[int, ...], device: Any) -> "Tensor":  # noqa: ANN401  torch.device
    """Where each example begins, and the end; kept, for all layers of a step ask for the same."""
    import torch

    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
