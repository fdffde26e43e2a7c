"""The loss: cross entropy of the trained tokens, from the only positions that need the vocabulary."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vademecum.training.batching import collate
from vademecum.training.fused import token_cross_entropy
from vademecum.training.supervision import IGNORED, Example

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

EVALUATED_TOKENS = 2048
"""About so many are timed."""


def trained_tokens(labels: "Tensor") -> int:
    """How many of `labels` (rows, width) are predicted: the first token of a row has nothing that predicts it."""
    return int((labels[:, 1:] != IGNORED).sum())


def summed_loss(model: "Module", batch: Mapping[str, "Tensor"]) -> "Tensor":
    """Cross entropy in nats, summed over the trained tokens of `batch`, in float32; a scalar."""
    labels = batch["labels"]
    trained = labels[:, 1:] != IGNORED
    rows, columns = trained.nonzero(as_tuple=True)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return loss_at(model, inputs, rows * labels.shape[1] + columns, labels[:, 1:][trained])


def loss_at(model: "Module", inputs: Mapping[str, "Tensor"], positions: "Tensor", targets: "Tensor") -> "Tensor":
    """Summed cross entropy of the tokens `targets`, as `token_losses` gives it; a scalar."""
    return token_losses(model, inputs, positions, targets).sum()


def token_losses(model: "Module", inputs: Mapping[str, "Tensor"], positions: "Tensor", targets: "Tensor") -> "Tensor":
    """Cross entropy (n,) of the tokens `targets` (n,) that follow `positions` (n,), counted row after row.

    The output layer sees only these positions: prompts and pads cost no row of vocabulary size. What a model does with
    its logits afterwards, such as scaling or soft caps, happens as ever, and so does everything that PEFT and
    Accelerate hang onto the model's call.
    """

    def keep_trained(_: "Module", args: tuple["Tensor", ...]) -> tuple["Tensor", ...]:
        return (args[0].flatten(0, 1).index_select(0, positions).unsqueeze(0),)

    hook = _output_layer(model).register_forward_pre_hook(keep_trained)
    try:
        logits = model(**inputs, use_cache=False).logits.squeeze(0)
    finally:
        hook.remove()
    return token_cross_entropy()(logits.float(), targets)


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


def evaluation_rate(model: "Module", examples: Sequence[Example], pad_id: int, most_tokens: int) -> float:
    """Real tokens per second of `mean_loss`, measured on a few of `examples` after a warm-up."""
    some = list(examples[: max(1, EVALUATED_TOKENS // max(example.length for example in examples))])
    mean_loss(model, some[:1], pad_id, most_tokens)
    began = time.perf_counter()
    mean_loss(model, some, pad_id, most_tokens)
    return sum(example.length for example in some) / (time.perf_counter() - began)


def _batches(examples: Sequence[Example], most_tokens: int) -> list[list[Example]]:
    batches: list[list[Example]] = []
    for example in sorted(examples, key=lambda example: example.length, reverse=True):
        if not batches or (len(batches[-1]) + 1) * batches[-1][0].length > most_tokens:
            batches.append([])
        batches[-1].append(example)
    return batches


def _output_layer(model: Any) -> Any:  # noqa: ANN401  transformers' models are untyped here
    return getattr(model, "module", model).get_output_embeddings()  # inside of DistributedDataParallel
