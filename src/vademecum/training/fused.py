"""The adapted linear layer, and the loss, in as few passes over memory as they take.

PEFT computes base(x), then B(A(x)), then its multiple with the scaling, then the sum: four tensors of the layer's width
where one will do, and, for a base in 16 bits, a copy of x in float32 for every layer. Here the update is added into the
base's own result by one matrix product, and the same is done on the way back:

    y  = x Wᵀ + s (x Aᵀ) Bᵀ                            LoRA, https://arxiv.org/abs/2106.09685
    dx = dy W + s (dy B) A      dA = s (dy B)ᵀ x      dB = s dyᵀ (x Aᵀ)

W is frozen and has no gradient. Kept for the way back are x, which the layers before share, and x Aᵀ.

PyTorch's cross entropy holds three tensors of a whole vocabulary per trained token: logits, log-softmax and gradient.
Here the logits themselves become the gradient, softmax minus one at the target, as soon as the loss is known.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


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
    """The loss as a function: (logits (n, vocabulary) in float32, targets (n,)) → (n,), in nats.

    It overwrites the logits; PyTorch raises an error where a model's last step still needs them.
    """
    import torch

    class TokenCrossEntropy(torch.autograd.Function):
        """Log-sum-exp with the largest logit taken out first, as ever."""

        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> "Tensor":  # noqa: ANN401
            logits, targets = inputs
            chosen = targets.unsqueeze(1)
            largest = logits.max(dim=1, keepdim=True).values
            at_target = logits.gather(1, chosen)
            total = logits.sub_(largest).exp_().sum(dim=1, keepdim=True)
            ctx.save_for_backward(logits.div_(total).scatter_add_(1, chosen, -torch.ones_like(at_target)))
            losses: Tensor = (total.log() + largest - at_target).squeeze(1)
            return losses

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:  # noqa: ANN401
            (gradient,) = ctx.saved_tensors
            return gradient.mul_(grads[0].unsqueeze(1)), None

    apply: Callable[[Tensor, Tensor], Tensor] = TokenCrossEntropy.apply
    return apply
