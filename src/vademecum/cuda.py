"""What PyTorch's CUDA does and this package must know of."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

FLASH_CAPABILITY = (8, 0)
FULL = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "ALLOCATION_FAILED")
"""What an error says where a GPU is full: the driver, cuBLAS, cuDNN before version 9 and since."""


def has_kernels(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Whether a GPU runs code that was built for `architectures`, as `torch.cuda.get_arch_list` names them.

    Machine code (`sm_86`) runs on GPUs of the same major and no lower minor version; PTX (`compute_86`), which the
    driver compiles, on all from there on. With a letter behind it is for one GPU (`sm_90a`) or its family (`sm_100f`).
    https://docs.nvidia.com/cuda/blackwell-compatibility-guide/. Of AMD's names nothing is known: they pass.
    """
    found = [re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name) for name in architectures]
    known = [(one[1], (int(one[2]), int(one[3])), one[4]) for one in found if one]
    return not known or any(_runs(capability, *one) for one in known)


def _runs(capability: tuple[int, int], kind: str, built_for: tuple[int, int], letter: str) -> bool:
    if letter == "a":
        return capability == built_for
    same_major = capability[0] == built_for[0]
    return capability >= built_for and (same_major or (kind == "compute" and not letter))


def unusable_gpu() -> str:
    """Which CUDA device is here that this PyTorch has no code for, and what it has code for; empty if there is none."""
    import torch

    if not torch.cuda.is_available():
        return ""
    gpu, built_for = torch.cuda.get_device_properties(torch.cuda.current_device()), torch.cuda.get_arch_list()
    if has_kernels((gpu.major, gpu.minor), built_for):
        return ""
    return (
        f"{gpu.name} has compute capability {gpu.major}.{gpu.minor}, and PyTorch {torch.__version__} was built for "
        f"{', '.join(built_for)}"
    )


def shares_heads(dtype: str, device: Any = None) -> bool:  # noqa: ANN401  torch.device
    """Whether flash attention, for which several heads of the query may share one of key and value, is to be had in
    that number format on a CUDA device, the current one if none is named.
    https://docs.pytorch.org/docs/stable/generated/torch.nn.attention.SDPBackend.html"""
    import torch

    return dtype in ("bfloat16", "float16") and torch.cuda.get_device_capability(device) >= FLASH_CAPABILITY


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU is full. PyTorch's allocator has a class for it; the libraries that it calls
    take memory past it, and of their errors there is only the text."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in FULL)


@contextmanager
def unused_gpu_hidden(device: str) -> Iterator[None]:
    """Let libraries see no CUDA device in the `with` block, unless `device` is `cuda`.

    transformers keeps the random state of any that is there, and PEFT loads adapters by way of it. Each opens a context
    on it, which takes hundreds of megabytes, or fails where it is full.
    """
    import torch

    is_available = torch.cuda.is_available
    if device != "cuda":
        torch.cuda.is_available = lambda: False
    try:
        yield
    finally:
        torch.cuda.is_available = is_available
