"""A frozen base in parts: each process keeps its share of every layer, and has a whole layer only while it computes
with it.

PyTorch's fully_shard (FSDP2) does it for the base. The adapter's weights, a few thousandths of it, stay whole in every
process and are averaged as in data-parallel training without parts, so optimizer, checkpoints and adapter are the same
as there.
"""

from typing import TYPE_CHECKING, Any

from vademecum.errors import ConfigError

if TYPE_CHECKING:
    from peft import PeftModel
    from torch.nn import Module


def layers_of(model: Any) -> "list[Module]":  # noqa: ANN401  transformers' models are untyped here
    """The layers of a base that transformers says are not to be taken apart, in the model's order.

    Raises:
        ConfigError: it names none.
    """
    named = set(model._no_split_modules or ())
    found: list[Module] = [module for module in model.modules() if type(module).__name__ in named]
    if not found:
        raise ConfigError(
            f"a {model.config.model_type} model cannot be kept in parts: transformers does not name its layers",
            hint="leave train.dp_shard_size at 1; model.quantization = 'nf4' makes the base a quarter as large",
        )
    return found


def shard_base(model: "PeftModel", device: str) -> None:
    """Leave of the frozen base in this process its share, on `device` (`cpu` or `cuda`), in place.

    All processes of the default group come here, each with the same whole base. From then on they must call the model
    together.

    Raises:
        ConfigError: the model's layers are not known.
    """
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    mesh = init_device_mesh(device, (torch.distributed.get_world_size(),))
    for layer in layers_of(model.get_base_model()):
        fully_shard(layer, mesh=mesh, ignored_params=trained)
    # What is left: embedding, head, last norm. PEFT before 0.21 calls the base's `forward`, where hooks hear nothing.
    # Parted again after every call: rank 0 alone looks at all weights when it saves, which parts them there.
    fully_shard(model.base_model, mesh=mesh, ignored_params=trained, reshard_after_forward=True)
    for parameter in trained:
        parameter.data = parameter.data.to(mesh.device_type)


def parts_trainer() -> Any:  # noqa: ANN401  untyped base
    """TRL's SFTTrainer, which may be given a model whose base is in parts."""
    from trl import SFTTrainer

    class PartsTrainer(SFTTrainer):  # type: ignore[misc]  # untyped base
        """Leaves the parts where they lie, and averages the gradients of what is whole."""

        def _move_model_to_device(self, model: Any, device: Any) -> None:  # noqa: ANN401
            if not _in_parts(model):
                super()._move_model_to_device(model, device)

        def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:  # noqa: ANN401
            if not (training and _in_parts(model)):
                return super()._wrap_model(model, training, dataloader)
            # Accelerate puts autocast over it; it would refuse to average what is only partly whole.
            model = self.accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)
            return _average_gradients(model, self.accelerator.device)

    return PartsTrainer


def _in_parts(model: "Module") -> bool:
    import torch

    if not torch.distributed.is_initialized():
        return False
    from torch.distributed.tensor import DTensor

    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def _average_gradients(model: "Module", device: Any) -> "Module":  # noqa: ANN401  torch.device
    from torch.nn.parallel import DistributedDataParallel

    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, frozen)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)
