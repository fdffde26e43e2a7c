"""What CUDA's errors say is understood, and a GPU that is not used is not seen."""

import pytest
import torch

from vademecum.cuda import has_kernels, is_out_of_memory, unused_gpu_hidden


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.50 GB)"),
    ],
)
def test_a_full_gpu_is_recognised(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"),
        OSError("out of memory"),
    ],
)
def test_nothing_else_is_taken_for_a_full_gpu(error: Exception) -> None:
    assert not is_out_of_memory(error)


CUDA_13 = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")
CUDA_11 = ("sm_50", "sm_60", "sm_70", "sm_80", "sm_90", "compute_90")


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((6, 1), CUDA_13, False),  # GTX 1080
        ((7, 0), CUDA_13, False),  # V100: sm_75 is of the same major version, and newer
        ((7, 5), CUDA_13, True),  # T4
        ((8, 9), CUDA_13, True),  # L4: by sm_86
        ((10, 3), CUDA_13, True),
        ((12, 1), CUDA_13, True),
        ((6, 1), CUDA_11, True),
        ((12, 0), CUDA_11, True),  # by PTX
        ((12, 0), ("sm_80", "sm_90"), False),
        ((9, 0), ("sm_90a",), True),
        ((9, 1), ("sm_90a",), False),
        ((10, 3), ("sm_100f",), True),
        ((12, 0), ("sm_90", "compute_90a"), False),
        ((12, 0), ("compute_100f",), False),
        ((9, 4), ("gfx90a", "gfx942"), True),  # AMD
        ((8, 0), (), True),
    ],
)
def test_a_gpu_runs_what_was_built_for_it(
    capability: tuple[int, int], architectures: tuple[str, ...], runs: bool
) -> None:
    assert has_kernels(capability, architectures) is runs


def test_a_gpu_is_hidden_only_where_it_is_not_computed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for device, seen in (("cuda", True), ("cpu", False)):
        with unused_gpu_hidden(device):
            assert torch.cuda.is_available() is seen
        assert torch.cuda.is_available()
