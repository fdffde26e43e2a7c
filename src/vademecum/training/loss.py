"""The loss: cross entropy of the trained tokens, from the only positions that need the vocabulary."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from vademecum.training.batching import collate
from vademecum.training.fused import token_cross_entropy
from vademecum.training.supervision import IGNORED, Example

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

EVALUATED_TOKENS = 2048
"""About so many are timed."""


class ExampleLoss(NamedTuple):
    """What a model made of one row."""

    id: str
    """The pair's."""
    nats: float
    """Cross entropy, summed over its trained tokens."""
    tokens: int


def trained_tokens(labels: "Tensor") -> int:
    """How many of `labels` (rows, width) are predicted: the first token of a row has nothing that predicts it."""
    return int((labels[:, 1:] != IGNORED).sum())


def summed_loss(model: "Module", batch: Mapping[str, Any]) -> "Tensor":
    """Cross entropy in nats, summed over the trained tokens of `batch`, in float32; a scalar."""
    return _losses(model, batch)[0].sum()


def _losses(model: "Module", batch: Mapping[str, Any]) -> tuple["Tensor", "Tensor"]:
    """Cross entropy (n,) of all trained tokens of `batch`, and the row (n,) that each lies in."""
    labels = batch["labels"]
    trained = labels[:, 1:] != IGNORED
    rows, columns = trained.nonzero(as_tuple=True)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return token_losses(model, inputs, rows * labels.shape[1] + columns, labels[:, 1:][trained]), rows


def loss_at(model: "Module", inputs: Mapping[str, Any], positions: "Tensor", targets: "Tensor") -> "Tensor":
    """Summed cross entropy of the tokens `targets`, as `token_losses` gives it; a scalar."""
    return token_losses(model, inputs, positions, targets).sum()


def token_losses(model: "Module", inputs: Mapping[str, Any], positions: "Tensor", targets: "Tensor") -> "Tensor":
    """Cross entropy (n,) of the tokens `targets` (n,) that follow `positions` (n,), counted row after row.

    The output layer sees only these positions: prompts and pads cost no row of vocabulary size. What a model does with
    its logits afterwards, such as scaling or soft caps, happens as ever, and so does everything that PEFT and
    Accelerate hang onto the model's call; but the losses take the logits' place before Accelerate would make a copy of
    all logits in float32.
    """

    def keep_trained(_: "Module", args: tuple["Tensor", ...]) -> tuple["Tensor", ...]:
        return (args[0].flatten(0, 1).index_select(0, positions).unsqueeze(0),)

    language_model = _language_model(model)
    forward, replaced = language_model.forward, "forward" in vars(language_model)

    def judged(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  transformers' ModelOutput
        output = forward(*args, **kwargs)
        output.logits = token_cross_entropy()(output.logits.squeeze(0), targets)
        return output

    hook = language_model.get_output_embeddings().register_forward_pre_hook(keep_trained)
    # Not a hook: PEFT before 0.21 calls `forward` itself, where hooks hear nothing (huggingface/peft 4af2f294c).
    language_model.forward = judged
    try:
        losses: Tensor = model(**inputs, use_cache=False).logits
    finally:
        hook.remove()
        if replaced:
            language_model.forward = forward
        else:
            del language_model.forward
    return losses


def example_losses(model: "Module", examples: Sequence[Example], pad_id: int, most_tokens: int) -> list[ExampleLoss]:
    """Cross entropy of each of `examples`, the longest first, without gradients.

    Rows of like length share a batch of at most `most_tokens` slots (or one row). The model is left in the mode,
    training or not, that it came in.
    """
    import torch

    device = _language_model(model).get_output_embeddings().weight.device
    was_training = model.training
    model.eval()
    found = []
    with torch.no_grad():
        for batch in _batches(examples, most_tokens):
            tensors = collate(batch, pad_id)
            tokens = (tensors["labels"][:, 1:] != IGNORED).sum(1).tolist()
            losses, rows = _losses(model, {name: value.to(device) for name, value in tensors.items()})
            nats = torch.zeros(len(batch), device=device).index_add_(0, rows, losses).tolist()
            found += [ExampleLoss(one.id, *of) for one, of in zip(batch, zip(nats, tokens, strict=True), strict=True)]
    model.train(was_training)
    return found


def per_token(losses: Sequence[ExampleLoss]) -> float:
    """Nats per trained token over all rows: every token weighs the same."""
    return math.fsum(one.nats for one in losses) / max(1, sum(one.tokens for one in losses))


def evaluation_rate(model: "Module", examples: Sequence[Example], pad_id: int, most_tokens: int) -> float:
    """Real tokens per second of `example_losses`, measured on a few of `examples` after a warm-up."""
    some = list(examples[: max(1, EVALUATED_TOKENS // max(example.length for example in examples))])
    example_losses(model, some[:1], pad_id, most_tokens)
    began = time.perf_counter()
    example_losses(model, some, pad_id, most_tokens)
    return sum(example.length for example in some) / (time.perf_counter() - began)


def _batches(examples: Sequence[Example], most_tokens: int) -> list[list[Example]]:
    batches: list[list[Example]] = []
    for example in sorted(examples, key=lambda example: example.length, reverse=True):
        if not batches or (len(batches[-1]) + 1) * batches[-1][0].length > most_tokens:
            batches.append([])
        batches[-1].append(example)
    return batches


def _language_model(model: Any) -> Any:  # noqa: ANN401  transformers' models are untyped here
    """transformers' own model, without what PEFT and DistributedDataParallel put around it."""
    inner = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner
