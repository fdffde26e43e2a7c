"""The loss: cross entropy of the trained tokens, from the only positions that need the vocabulary."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vademecum.training.batching import collate
from vademecum.training.supervision import IGNORED, Example

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


def trained_tokens(labels: "Tensor") -> int:
    """How many of `labels` (rows, width) are predicted: the first token of a row has nothing that predicts it."""
    return int((labels[:, 1:] != IGNORED).sum())


def summed_loss(model: "Module", batch: Mapping[str, "Tensor"]) -> "Tensor":
    """Cross entropy in nats, summed over the trained tokens of `batch`, in float32; a scalar.

    The output layer sees only the positions whose next token is trained: prompts and pads cost no row of vocabulary
    size. What a model does with its logits afterwards, such as scaling or soft caps, happens as ever, and so does
    everything that PEFT and Accelerate hang onto the model's call.
    """
    from torch.nn.functional import cross_entropy

    labels = batch["labels"]
    trained = labels[:, 1:] != IGNORED

    def keep_trained(_: "Module", args: tuple["Tensor", ...]) -> tuple["Tensor", ...]:
        return (args[0][:, :-1][trained].unsqueeze(0),)

    hook = _output_layer(model).register_forward_pre_hook(keep_trained)
    try:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        logits = model(**inputs, use_cache=False).logits[0]
    finally:
        hook.remove()
    return cross_entropy(logits.float(), labels[:, 1:][trained], reduction="sum")


def mean_loss(model: "Module", examples: Sequence[Example], pad_id: int, most_tokens: int) -> float:
    """Cross entropy in nats per trained token over all of `examples`, without gradients.

    Rows of like length share a batch of at most `most_tokens` slots (or one row); a sum over tokens does not depend on
    their order. The model is left in the mode, training or not, that it came in.
    """
    import torch

    device = _output_layer(model).weight.device
    was_training = model.training
    model.eval()
    total, tokens = 0.0, 0
    with torch.no_grad():
        for rows in _batches(examples, most_tokens):
            batch = collate(rows, pad_id)
            tokens += trained_tokens(batch["labels"])
            total += summed_loss(model, {name: value.to(device) for name, value in batch.items()}).item()
    model.train(was_training)
    return total / max(1, tokens)


def _batches(examples: Sequence[Example], most_tokens: int) -> list[list[Example]]:
    batches: list[list[Example]] = []
    for example in sorted(examples, key=lambda example: example.length, reverse=True):
        if not batches or (len(batches[-1]) + 1) * batches[-1][0].length > most_tokens:
            batches.append([])
        batches[-1].append(example)
    return batches


def _output_layer(model: Any) -> Any:  # noqa: ANN401  transformers' models are untyped here
    return model.get_output_embeddings()
