"""How many floating-point operations training and answering need: what a rate of matrix products is divided into."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """What decides how many operations a model's tokens need."""

    layers: int
    attention_width: int
    """Heads times their width."""
    linear_parameters: int
    """Weights of the linear layers in attention and MLP."""
    head_parameters: int
    adapter_parameters: int

    @classmethod
    def of(cls, model: Any) -> "Shape":  # noqa: ANN401  PEFT's models are untyped here
        """Counted on a model with its adapter; one on the meta device will do."""
        from torch.nn import Linear

        config, head = model.config.get_text_config(), model.get_output_embeddings()
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            attention_width=config.num_attention_heads * width,
            linear_parameters=sum(
                part.weight.numel()
                for name, part in model.named_modules()
                if isinstance(part, Linear) and part is not head and "lora_" not in name
            ),
            head_parameters=head.weight.numel(),
            adapter_parameters=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        )

    def training_flops(self, length: int, trained: int) -> int:
        """Floating-point operations that one row of `length` tokens needs, `trained` of them predicted.

        Two per weight and token forward. Frozen weights need no gradient of their own, so the backward pass through
        them costs as much as the forward pass; adapters cost twice as much. The head sees trained tokens only.
        Attention multiplies each token with those to its left, half of `length` in the mean: 2 x 2 x width x length / 2
        per token and layer forward, and twice that backward. Padding, recomputation and everything that is no matrix
        product count for nothing.
        """
        linear = 4 * self.linear_parameters * length
        head = 4 * self.head_parameters * trained
        adapters = 6 * self.adapter_parameters * length
        attention = 6 * self.layers * self.attention_width * length * length
        return linear + head + adapters + attention

    def reading_flops(self, length: int) -> int:
        """Of reading one prompt of `length` tokens: forward alone, the head for the last token."""
        attention = 2 * self.layers * self.attention_width * length * length
        return 2 * self.linear_parameters * length + 2 * self.head_parameters + attention

    def writing_flops(self) -> int:
        """Of one new token, attention to what came before left out: every weight twice."""
        return 2 * (self.linear_parameters + self.head_parameters)
