"""The fused layer computes what PEFT's does, forward and back, and leaves alone what it does not know."""

from typing import Any

import pytest
import torch

from vademecum.config import LoraConfig
from vademecum.models import attach_adapter
from vademecum.training.engine import unwrapped_after
from vademecum.training.fused import fuse_adapters, lora_linear, token_cross_entropy


def build(dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=64, attention_bias=True,
    )  # fmt: skip
    model = attach_adapter(LlamaForCausalLM(config).to(dtype), LoraConfig(lora_dropout=dropout), 0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:  # else the update is zero and proves nothing
                weight.normal_(std=0.1)
            if name.endswith("bias"):
                weight.normal_(std=0.1)
    return model


def run(model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    logits = model(input_ids=torch.arange(24).view(2, 12), use_cache=False).logits
    logits.float().pow(2).sum().backward()
    return logits.detach(), {
        name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad
    }


def test_outputs_and_gradients_are_those_of_peft() -> None:
    model = build()
    logits, gradients = run(model)
    with unwrapped_after(model):
        assert fuse_adapters(model) == 14
        fused_logits, fused = run(model)
    torch.testing.assert_close(fused_logits, logits, rtol=1e-4, atol=1e-5)
    assert fused.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(fused[name], gradient, rtol=1e-3, atol=1e-3)
    again, _ = run(model)
    torch.testing.assert_close(again, logits, rtol=0, atol=0)


def test_backward_is_the_derivative_of_forward() -> None:
    torch.manual_seed(0)
    shapes = [(2, 3, 5), (4, 5), (4,), (2, 5), (4, 2)]
    x, weight, bias, a, b = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    for tensor in (x, a, b):
        tensor.requires_grad_()
    apply = lora_linear()
    assert torch.autograd.gradcheck(lambda x, a, b: apply(x, weight, bias, a, b, 1.7), (x, a, b))


def test_adapters_of_a_16_bit_base_keep_float32_gradients() -> None:
    model = build(dtype=torch.bfloat16)
    with unwrapped_after(model), torch.autocast("cpu", dtype=torch.bfloat16):
        fuse_adapters(model)
        logits, gradients = run(model)
    assert logits.dtype == torch.bfloat16
    assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}


@pytest.mark.parametrize("change", ["dropout", "disabled", "merged"])
def test_other_layers_are_left_alone(change: str) -> None:
    model = build(dropout=0.1 if change == "dropout" else 0.0)
    if change == "merged":
        model.merge_adapter()
    if change == "disabled":
        model.base_model.disable_adapter_layers()
    assert fuse_adapters(model) == 0


@pytest.mark.parametrize(("rows", "most_parts"), [(1, 64), (3, 64), (100, 64), (0, 64), (1, 2)])
def test_the_loss_is_torchs_forward_and_back(rows: int, most_parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vademecum.training.fused.LOSS_PART_BYTES", rows * 40 * 4)
    monkeypatch.setattr("vademecum.training.fused.MOST_LOSS_PARTS", most_parts)
    torch.manual_seed(1)
    logits = (20 * torch.randn(7, 40)).requires_grad_()
    targets = torch.randint(0, 40, (7,))
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    (3 * expected).backward()  # type: ignore[no-untyped-call]
    gradient = logits.grad
    ours = logits.detach().clone().requires_grad_()
    loss = token_cross_entropy()(ours * 1.0, targets).sum()
    (3 * loss).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours.grad, gradient)


def test_the_loss_of_16_bit_logits_is_computed_in_float32() -> None:
    torch.manual_seed(1)
    logits = (5 * torch.randn(7, 4000)).bfloat16().requires_grad_()
    targets = torch.randint(0, 4000, (7,))
    wide = logits.detach().float().requires_grad_()
    expected = torch.nn.functional.cross_entropy(wide, targets, reduction="none")
    expected.sum().backward()  # type: ignore[no-untyped-call]
    losses = token_cross_entropy()(logits * 1, targets)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(losses, expected)
    assert logits.grad is not None and wide.grad is not None
    torch.testing.assert_close(logits.grad, wide.grad.bfloat16(), rtol=2**-7, atol=1e-9)


def test_small_gradients_of_float16_logits_are_what_the_scaled_loss_makes_them() -> None:
    """A share of 3e-8 is nothing in float16, and times a loss scale of 65,536 it is something."""
    torch.manual_seed(1)
    logits = torch.randn(5, 4000)
    logits[:, 7] = 24.0
    logits = logits.half().requires_grad_()
    targets = torch.full((5,), 7)
    wide = logits.detach().float().requires_grad_()
    (2.0**16 * torch.nn.functional.cross_entropy(wide, targets, reduction="sum")).backward()  # type: ignore[no-untyped-call]
    (2.0**16 * token_cross_entropy()(logits * 1, targets).sum()).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None and wide.grad is not None
    others = torch.arange(4000) != 7
    assert wide.grad[:, others].max() < 2**-24 * 2**16
    torch.testing.assert_close(logits.grad.float()[:, others], wide.grad[:, others], rtol=2**-9, atol=2**-24)


def test_logits_that_something_else_still_needs_are_an_error_and_not_a_wrong_gradient() -> None:
    raw = torch.randn(3, 5, requires_grad=True)
    loss = token_cross_entropy()(raw.tanh(), torch.tensor([0, 1, 2])).sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()  # type: ignore[no-untyped-call]


def test_a_logit_that_is_not_a_number_stays_one() -> None:
    logits = torch.zeros(2, 4)
    logits[0, 1] = float("nan")
    assert token_cross_entropy()(logits, torch.tensor([0, 0])).isnan().tolist() == [True, False]
