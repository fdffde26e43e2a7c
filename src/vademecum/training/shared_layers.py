"""The adapters of many trainings in one frozen base, each applied to the rows of its own training.

The base's product x Wᵀ is computed once for the rows of all members; the updates of fused.py are added by one batched
product, in which member i's rows meet A_i and B_i alone:

    y[i]  = x[i] Wᵀ + s (x[i] A_iᵀ) B_iᵀ
    dx[i] = dy[i] W + s (dy[i] B_i) A_i      dA_i = s (dy[i] B_i)ᵀ x[i]      dB_i = s dy[i]ᵀ (x[i] A_iᵀ)

So a layer launches as many kernels for ten members as for one, and a number that is not finite stays with its member.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from vademecum.config.sections import LoraConfig
from vademecum.errors import ConfigError, RunError
from vademecum.models import attach_adapter, is_quantized
from vademecum.training.fused import plain_layers

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from torch.nn import Parameter
    from transformers import PreTrainedModel

ADAPTER = "default"
"""PEFT's own name."""


@dataclass(frozen=True)
class Rows:
    """Whose rows the model is about to see: those of the first member, then as many of the next, and so on."""

    members: "Tensor"
    """Their numbers (m,), on the model's device."""
    shape: tuple[int, int] | None = None
    """Rows of all members and their width; none where there is one member."""


class SharedLayer:
    """One linear layer with the adapters of all members, stacked: A (members, r, in), B (members, out, r)."""

    def __init__(self, layer: Any, weights: Sequence[tuple["Tensor", "Tensor"]]) -> None:  # noqa: ANN401  PEFT's
        import torch

        self.layer = layer
        self.a, self.b = (torch.stack(each) for each in zip(*weights, strict=True))
        self.grad_a, self.grad_b = torch.zeros_like(self.a), torch.zeros_like(self.b)
        self.parameters = [(torch.nn.Parameter(a), torch.nn.Parameter(b)) for a, b in zip(self.a, self.b, strict=True)]
        """Views of the stacks: what an optimizer changes here, the layer sees."""
        for number, (a, b) in enumerate(self.parameters):
            a.grad, b.grad = self.grad_a[number], self.grad_b[number]

    def put_in(self, number: int) -> None:
        """Make a member's adapter the one that PEFT sees."""
        self.layer.lora_A[ADAPTER].weight, self.layer.lora_B[ADAPTER].weight = self.parameters[number]


class SharedAdapters:
    """A base model with the adapters of several members, each with the start that it has alone.

    Their weights are float32 on the base's device, with Adam's two moments 16 bytes per weight and member.
    """

    def __init__(self, model: "PreTrainedModel", lora: LoraConfig, seeds: Sequence[int]) -> None:
        """Attach an adapter per seed to `model`, in place.

        Raises:
            ConfigError: the base or its layers are such that members could not train as they do alone.
        """
        import torch

        _check_base(model)
        self.seeds = list(seeds)
        starts = []
        for number, seed in enumerate(seeds):
            if number:
                self.model.unload()
            self.model: PeftModel = attach_adapter(model, lora, seed)
            layers = _only_plain(self.model)
            starts.append([tuple(part[ADAPTER].weight.data for part in (one.lora_A, one.lora_B)) for one in layers])
        self.layers = [SharedLayer(layer, each) for layer, *each in zip(layers, *starts, strict=True)]
        self.rows: Rows | None = None
        self._anchor = torch.zeros((), requires_grad=True)

    def put_in(self, number: int) -> "PeftModel":
        """The model with a member's adapter alone, as PEFT knows it, until another one is put in."""
        for layer in self.layers:
            layer.put_in(number)
        return self.model

    def parameters(self, number: int) -> list["Parameter"]:
        """A member's weights, in the model's order; their gradients are never none."""
        return [parameter for layer in self.layers for parameter in layer.parameters[number]]

    def share(self) -> None:
        """Let every layer apply to each row the adapter that `rows` says. Undone by `unwrapped_after`."""
        apply = shared_linear()
        for layer in self.layers:
            layer.layer.forward = partial(self._forward, apply, layer)

    def _forward(
        self, apply: Callable[..., "Tensor"], layer: SharedLayer, x: "Tensor", *_: object, **__: object
    ) -> Any:  # noqa: ANN401
        rows = self.rows
        if rows is None or (rows.shape is not None and x.shape[:-1] != rows.shape):
            raise RunError(
                f"a layer of the base sees tokens as {tuple(x.shape[:-1])}, not row by row",
                hint="this architecture cannot be shared: train the variants one after another",
            )
        return apply(x.to(layer.layer.base_layer.weight.dtype), self._anchor, layer, rows.members)


def shared_linear() -> Callable[..., "Tensor"]:
    """The layer as a function: (x, anchor, layer, members) → y, where the gradients of A and B are added up in place.

    `anchor` is any tensor that requires a gradient and gets none: with it the way back leads through the first layer
    too. Gradients that autograd knows of would cost a launch for every member and weight.
    """
    import torch

    class SharedLinear(torch.autograd.Function):
        """x (…, in), the rows of the members (m,) one after another, as many of each → (…, out) in W's dtype."""

        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> "Tensor":  # noqa: ANN401
            x, _, layer, members = inputs
            base = layer.layer.base_layer
            with torch.autocast(x.device.type, enabled=False):
                a, b = (stack.index_select(0, members).to(x.dtype) for stack in (layer.a, layer.b))
                flat = x.reshape(-1, x.shape[-1])
                low = flat.view(len(members), -1, flat.shape[1]) @ a.transpose(1, 2)
                out: Tensor = torch.nn.functional.linear(flat, base.weight, base.bias)
                apart = out.view(len(members), -1, out.shape[1])
                apart.baddbmm_(low, b.transpose(1, 2), alpha=layer.layer.scaling[ADAPTER])
            ctx.save_for_backward(x, low, a, b, members)
            ctx.layer = layer
            return out.view(*x.shape[:-1], -1)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:  # noqa: ANN401
            x, low, a, b, members = ctx.saved_tensors
            layer, weight = ctx.layer, ctx.layer.layer.base_layer.weight
            scaling = layer.layer.scaling[ADAPTER]
            grad = grads[0].reshape(-1, weight.shape[0])
            apart = grad.view(len(members), -1, grad.shape[1])
            with torch.autocast(x.device.type, enabled=False):
                grad_low = (apart @ b).mul_(scaling)
                grad_b = (low.transpose(1, 2) @ apart).mul_(scaling).transpose(1, 2)
                grad_a = grad_low.transpose(1, 2) @ x.reshape(len(members), -1, x.shape[-1])
                layer.grad_a.index_add_(0, members, grad_a.to(layer.grad_a.dtype))
                layer.grad_b.index_add_(0, members, grad_b.to(layer.grad_b.dtype))
                grad_x = None
                if ctx.needs_input_grad[0]:
                    grad_x = grad @ weight
                    grad_x.view(len(members), -1, grad_x.shape[1]).baddbmm_(grad_low, a)
                    grad_x = grad_x.view(x.shape)
            return grad_x, None, None, None

    apply: Callable[..., Tensor] = SharedLinear.apply
    return apply


def _check_base(model: "PreTrainedModel") -> None:
    """Refuse a base on which members would not train as they do alone."""
    import torch

    found = ""
    if is_quantized(model):
        found = "its weights are quantized, and a sum is rounded where they are unpacked"
    elif any(parameter.dtype == torch.float16 for parameter in model.parameters()):
        found = "float16 scales the loss, and the members would have one scale"
    elif model.config.to_dict().get("attention_dropout") or any(
        isinstance(part, torch.nn.Dropout) and part.p > 0 for part in model.modules()
    ):
        found = "it has dropout of its own, and what is dropped would depend on the other members"
    if found:
        raise ConfigError(f"this base model cannot be shared: {found}", hint="train the variants one after another")


def _only_plain(model: "PeftModel") -> list[Any]:
    from peft.tuners.lora import LoraLayer

    layers = plain_layers(model)
    others = sum(isinstance(module, LoraLayer) for module in model.modules()) - len(layers)
    if others:
        raise ConfigError(
            f"{others} of {others + len(layers)} adapted layers of this model are not plain linear ones without "
            "dropout, and cannot be shared",
            hint="narrow lora.target_modules or set lora.lora_dropout = 0, or train the variants one after another",
        )
    return layers
