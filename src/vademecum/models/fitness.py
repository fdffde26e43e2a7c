"""Whether weights can be worked with: the shapes that config.json says, finite numbers, and a decoder.

Each check takes a second or two, and what it finds would otherwise come out as a bad score after the training.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vademecum.errors import SourceError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOLERANCE = 1e-3
"""Of the largest logit: far above rounding, far below what another token makes of an encoder's output."""


def check_numbers(path: Path, dtype: str) -> None:
    """Look at every weight in the files.

    Raises:
        SourceError: one is NaN or infinite, or larger than `dtype` ("float32", "bfloat16", "float16") can hold.
    """
    import torch
    from safetensors import safe_open

    largest = torch.finfo(getattr(torch, dtype)).max
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  no mapping
                tensor = tensors.get_tensor(name)
                if not tensor.is_floating_point() or not tensor.numel():
                    continue
                low, high = (float(end) for end in tensor.aminmax())  # NaN comes through as NaN
                if not (math.isfinite(low) and math.isfinite(high)):
                    raise SourceError(
                        f"The weight {name!r} in {str(file)!r} holds NaN or infinity.",
                        hint="The training or conversion that wrote it went wrong: take another copy of the model.",
                    )
                if max(-low, high) > largest:
                    raise SourceError(
                        f"The weight {name!r} in {str(file)!r} goes up to {max(-low, high):g}, which {dtype} cannot "
                        "hold.",
                        hint="Set model.dtype to 'bfloat16' or 'float32'.",
                    )


def check_fit(path: Path, model: "PreTrainedModel", loading: Mapping[str, Any]) -> None:
    """Compare the weights in the files with the model that config.json describes.

    Left-over weights are refused where they are more of what the model has, such as layers beyond the last; others,
    such as the parts of a larger model that stand around a decoder, are none of its business.

    Raises:
        SourceError: weights are missing, of another shape, or left over.
    """
    hint = "Copy the directory again, or check that config.json belongs to the weights."
    missing = sorted(loading["missing_keys"])
    if missing:
        raise SourceError(
            f"The weights in {str(path)!r} lack {len(missing)} tensors of the model, such as {missing[0]!r}, which "
            "would start at random.",
            hint=hint,
        )
    other = sorted(loading["mismatched_keys"])
    if other:
        name, found, wanted = other[0]
        raise SourceError(
            f"{len(other)} weights in {str(path)!r} have another shape than config.json says, such as {name!r}: "
            f"{list(found)}, not {list(wanted)}.",
            hint=hint,
        )
    kinds = {_kind(name) for name in model.state_dict()}
    left = sorted(name for name in loading["unexpected_keys"] if _kind(name) in kinds)
    if left:
        raise SourceError(
            f"The weights in {str(path)!r} have {len(left)} tensors more than config.json has room for, such as "
            f"{left[0]!r}.",
            hint=hint,
        )


def check_causal(path: Path, model: "PreTrainedModel") -> None:
    """Refuse an encoder, such as BERT, which transformers loads as a language model all the same.

    Raises:
        SourceError: what the model says after a token depends on the tokens that follow it.
    """
    import torch

    rows = torch.tensor([[3, 4], [3, 5]], device=model.device)
    with torch.inference_mode():
        one, other = model(input_ids=rows).logits[:, 0].float()
    if float((one - other).abs().max()) > _TOLERANCE * float(one.abs().max()):
        raise SourceError(
            f"The model in {str(path)!r} ({type(model).__name__}) looks at the tokens that follow: it is an encoder.",
            hint="Set model.name to a decoder, such as a Llama, Qwen or SmolLM2 model.",
        )


def _kind(name: str) -> str:
    """A weight's name without the number of its layer."""
    return re.sub(r"\.\d+\.", ".N.", name)
