"""What a stage used: memory at its peak, and the versions that did the work."""

import platform
import resource
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType

LIBRARIES = (
    "vademecum", "torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "tokenizers",
    "rouge-score", "bm25s", "scipy", "numpy",
)  # fmt: skip


def library_versions() -> dict[str, str]:
    """Installed versions of Python and of every library that can change a result."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class PeakMemory:
    """The most memory held at one time in the `with` block: the process's, or the CUDA device's if that is in use."""

    def __init__(self) -> None:
        self.peak_bytes = 0

    def __enter__(self) -> "PeakMemory":
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: forget the peak so far
        if _cuda_in_use():
            import torch

            torch.cuda.reset_peak_memory_stats()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.peak_bytes = peak_memory_bytes()


def peak_memory_bytes() -> int:
    """Peak since the last reset; without Linux's counter, since the process began."""
    if _cuda_in_use():
        import torch

        return int(torch.cuda.max_memory_reserved())
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _cuda_in_use() -> bool:
    """Whether torch is loaded and has touched a CUDA device; a stage without torch must not load it for this."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())
