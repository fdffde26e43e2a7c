"""The adapted linear layer, and the loss, in as few passes over memory as they take.

PEFT computes base(x), then B(A(x)), then its multiple with the scaling, then the sum: four tensors of the layer's width
where one will do, and, for a base in 16 bits, a copy of x in float32 for every layer. Here the update is added into the
base's own result by one matrix product, and the same is done on the way back:

    y  = x Wᵀ + s (x Aᵀ) Bᵀ                            LoRA, https://arxiv.org/abs/2106.09685
    dx = dy W + s (dy B) A      dA = s (dy B)ᵀ x      dB = s dyᵀ (x Aᵀ)

W is frozen and has no gradient. Kept for the way back are x, which the layers before share, and x Aᵀ.

PyTorch's cross entropy holds three tensors of a whole vocabulary per trained token: logits, log-softmax and gradient.
Here the logits themselves become the gradient, softmax minus one at the target, as soon as the loss is known; a few
rows at a time, so that what lies between stays in the processor's cache, and no copy in float32 is made of the whole.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

LOSS_PART_BYTES, MOST_LOSS_PARTS = 2 << 20, 64
"""Of the logits that the loss works on at a time, in float32; larger where there would be more parts than so many, each
of which costs a GPU's host some ten kernels."""
HALF_ROOM = 2.0**15
"""What a gradient is multiplied by while it is kept in float16, where a share of the softmax below 2⁻²⁴ would be zero;
it is at most one in size, and the largest number there is 65,504."""


def fuse_adapters(model: "Module") -> int:
    """Let every layer of `model` that is a plain linear one with a plain LoRA adapter compute in this way.

    Layers with dropout, quantized weights, or another kind of adapter stay as they are. Undone by `unwrapped_after`.
    Returns how many layers were fused.
    """
    apply = lora_linear()
    layers = plain_layers(model)
    for module in layers:
        module.forward = partial(_forward, apply, module)
    return len(layers)


def plain_layers(model: "Module") -> list[Any]:
    """The layers of `model` that are plain linear ones with a plain LoRA adapter, in the model's order."""
    import torch
    from peft.tuners.lora import Linear

    return [
        module
        for module in model.modules()
        if isinstance(module, Linear) and type(module.base_layer) is torch.nn.Linear and _is_plain(module)
    ]


def _is_plain(module: Any) -> bool:  # noqa: ANN401  PEFT's layers are untyped here
    if module.merged or module.disable_adapters or list(module.active_adapters) != ["default"]:
        return False
    import torch

    named = "default"
    return (
        isinstance(module.lora_dropout[named], torch.nn.Identity)
        and named not in module.lora_variant
        and module.lora_A[named].bias is None
        and module.lora_B[named].bias is None
        and not module.fan_in_fan_out
    )


def _forward(apply: Callable[..., "Tensor"], module: Any, x: "Tensor", *_: object, **__: object) -> "Tensor":  # noqa: ANN401
    base = module.base_layer
    a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
    return apply(x.to(base.weight.dtype), base.weight, base.bias, a, b, module.scaling["default"])


def lora_linear() -> Callable[..., "Tensor"]:
    """The layer as a function: (x, W, bias, A, B, s) → y."""
    import torch

    class LoraLinear(torch.autograd.Function):
        """x (…, in), W (out, in), bias (out,) or none, A (r, in), B (out, r), s → (…, out) in W's dtype."""

        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> "Tensor":  # noqa: ANN401
            x, weight, bias, a, b, scaling = inputs
            with torch.autocast(x.device.type, enabled=False):
                flat = x.reshape(-1, x.shape[-1])
                low = flat @ a.to(x.dtype).t()
                out = torch.nn.functional.linear(flat, weight, bias)
                out.addmm_(low, b.to(x.dtype).t(), alpha=scaling)
            ctx.save_for_backward(x, low, weight, a, b)
            ctx.scaling = scaling
            return out.view(*x.shape[:-1], -1)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:  # noqa: ANN401
            x, low, weight, a, b = ctx.saved_tensors
            grad = grads[0].reshape(-1, weight.shape[0])
            with torch.autocast(x.device.type, enabled=False):
                grad_low = (grad @ b.to(grad.dtype)).mul_(ctx.scaling)
                # The long side last: (out, n) @ (n, r) ran at a third of the rate on two AVX2 cores.
                grad_b = (low.t() @ grad).mul_(ctx.scaling).t().to(b.dtype).contiguous()
                grad_a = (grad_low.t() @ x.reshape(-1, x.shape[-1])).to(a.dtype)
                grad_x = None
                if ctx.needs_input_grad[0]:
                    grad_x = (grad @ weight).addmm_(grad_low, a.to(grad.dtype)).view(x.shape)
            return grad_x, None, None, grad_a, grad_b, None

    apply: Callable[..., Tensor] = LoraLinear.apply
    return apply


def token_cross_entropy() -> Callable[["Tensor", "Tensor"], "Tensor"]:
    """The loss as a function: (logits (n, vocabulary), targets (n,)) → (n,), in nats and in float32.

    It computes in float32 and overwrites the logits with their gradient, in their own dtype; PyTorch raises an error
    where a model's last step still needs them.
    """
    import torch

    class TokenCrossEntropy(torch.autograd.Function):
        """Log-sum-exp with the largest logit taken out first, as ever; its rest is the log of that logit's share."""

        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> "Tensor":  # noqa: ANN401
            logits, targets = inputs
            room = _room(logits)
            wide, shares = _scratch(logits), _scratch(logits)
            losses = []
            for part, chosen in zip(logits.split(len(wide)), targets.unsqueeze(1).split(len(wide)), strict=True):
                here = wide[: len(part)].copy_(part)
                largest, at_target = here.amax(dim=1), here.gather(1, chosen)
                share = torch.softmax(here, dim=1, out=shares[: len(part)])
                losses.append(largest - share.amax(dim=1).log() - at_target.squeeze(1))
                if ctx.needs_input_grad[0]:
                    part.copy_(share.scatter_add_(1, chosen, -torch.ones_like(at_target)).mul_(room))
            ctx.save_for_backward(logits)
            return torch.cat(losses)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:  # noqa: ANN401
            (gradient,) = ctx.saved_tensors
            wide, weights = _scratch(gradient), grads[0].unsqueeze(1) / _room(gradient)
            for part, weight in zip(gradient.split(len(wide)), weights.split(len(wide)), strict=True):
                part.copy_(wide[: len(part)].copy_(part).mul_(weight))
            return gradient, None

    apply: Callable[[Tensor, Tensor], Tensor] = TokenCrossEntropy.apply
    return apply


def _room(gradient: "Tensor") -> float:
    import torch

    return HALF_ROOM if gradient.dtype == torch.float16 else 1.0


def _scratch(logits: "Tensor") -> "Tensor":
    """Room for the rows of `logits` that are worked on at a time; taken once, for new pages cost more than the work."""
    import torch

    few = LOSS_PART_BYTES // (4 * logits.shape[1])
    rows = max(1, min(len(logits), max(few, math.ceil(len(logits) / MOST_LOSS_PARTS))))
    return torch.empty(rows, logits.shape[1], dtype=torch.float32, device=logits.device)
