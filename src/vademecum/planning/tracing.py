"""Running a model that has shapes but no numbers, to count the bytes that its tensors would take.

PyTorch's fake tensors know their shape, dtype and storage and hold nothing. A forward and backward pass over them runs
the very code of transformers, PEFT and our loss, in a second and without weights. `Allocations` counts what is alive.
"""

import json
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vademecum.config import LoraConfig
from vademecum.errors import SourceError
from vademecum.models import attach_adapter
from vademecum.models.attention import register_attention

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class Allocations:
    """Bytes of the tensors that were made in `watching()` and are still alive, and the most there were at a time."""

    def __init__(self) -> None:
        self.now_bytes = 0
        self.peak_bytes = 0
        self._sizes: dict[int, int] = {}

    def disregard(self, model: Any) -> None:  # noqa: ANN401  torch modules are untyped here
        """Leave a model's own tensors out of the count."""
        for tensor in [*model.parameters(), *model.buffers()]:
            self._sizes[tensor.untyped_storage()._cdata] = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count what is made in the `with` block."""
        import torch
        from torch.utils._python_dispatch import TorchDispatchMode
        from torch.utils._pytree import tree_leaves

        note = self._note

        class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
            """Sees every operation of PyTorch, below autograd."""

            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
                made = func(*args, **(kwargs or {}))
                for tensor in tree_leaves(made):
                    if isinstance(tensor, torch.Tensor):
                        note(tensor.untyped_storage())
                return made

        with Watch():  # type: ignore[no-untyped-call]
            yield

    def _note(self, storage: Any) -> None:  # noqa: ANN401  torch's storages are untyped
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.now_bytes += storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, self.now_bytes)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now_bytes -= self._sizes.pop(key, 0)


def read_model_config(folder: Path) -> "PretrainedConfig":
    """The configuration of a checkpoint folder; weights and tokenizer need not be there.

    Raises:
        SourceError: it is missing, broken, or of a kind of model that transformers does not know.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise SourceError(
            f"the model configuration in {str(folder)!r} cannot be read: {error}",
            hint="give a checkpoint folder with the config.json of a decoder that transformers knows",
        ) from error


def shapeless(config: "PretrainedConfig", dtype: str, lora: LoraConfig | None = None) -> "PreTrainedModel":
    """The model of a configuration, with an adapter where `lora` is given, on PyTorch's meta device."""
    import torch
    from transformers import AutoModelForCausalLM

    register_attention()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=getattr(torch, dtype))
    return model if lora is None else attach_adapter(model, lora, seed=0)


@contextmanager
def faked(model: "PreTrainedModel") -> Iterator[None]:
    """Give a model on the meta device tensors that pretend to lie on the CPU, and run the block without memory.

    Attention is the CPU's, which never holds a square of scores; `models.attention` sees to it that CUDA's does not.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import masking_utils

    # transformers looks at the positions for packed rows; where it cannot read them, it builds a mask to be safe.
    found_by_positions = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda _: None
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            _replace_tensors(model)
            yield
    finally:
        masking_utils.find_packed_sequence_indices = found_by_positions


def _replace_tensors(model: "PreTrainedModel") -> None:
    """Put empty CPU tensors in the place of the model's own; under a FakeTensorMode they take no memory."""
    import torch

    stand_ins: dict[int, tuple[Any, Any]] = {}  # tied weights stay tied; the first of the two keeps the id taken
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in stand_ins:
                    empty: Any = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                    if isinstance(tensor, torch.nn.Parameter):
                        empty = torch.nn.Parameter(empty, requires_grad=tensor.requires_grad)
                    stand_ins[id(tensor)] = (tensor, empty)
                tensors[name] = stand_ins[id(tensor)][1]
