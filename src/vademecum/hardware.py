"""What this machine can do: cores, memory and accelerator as this process may really use them, and what it uses."""

import ctypes
import gc
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Literal

from vademecum.cgroups import cpu_quota, memory_bytes
from vademecum.cuda import is_out_of_memory, unusable_gpu
from vademecum.errors import ConfigError, OutOfMemoryError
from vademecum.rates import matrix_product_rates
from vademecum.records import Record

Device = Literal["cpu", "cuda", "mps"]

INSTRUCTION_SETS = {
    "avx2": "avx2",
    "avx512f": "avx512",
    "avx512_bf16": "avx512bf16",
    "amx_bf16": "amx",
    "asimd": "neon",
    "sve": "sve",
}
"""The kernel's flag → our word, weakest first."""

M_MMAP_THRESHOLD = -3
COMPACT_BYTES, HEAP_BYTES = 1 << 17, 1 << 25
"""Above so many bytes a tensor gets pages of its own; 32 MiB is where glibc's own threshold ends up."""

KERNEL_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""The environment's names for how many kernels oneDNN keeps, and for how many torch keeps of it in every thread."""
KERNELS = 64
"""A micro-batch, or a step of answering, takes a dozen. By default 1,024 are kept: after 1,276 shapes they held 730 MB,
64 hold 77, and to make one anew takes a millisecond (docs/experiments.md)."""

BF16_MIN_GAIN = 1.2
"""bfloat16 must beat float32 by this factor on a CPU: its rounding costs accuracy, so a tie goes to float32."""

CUDA_CONTEXT_BYTES = 600_000_000
"""Of the driver, the kernels and the libraries' workspaces, which torch's allocator does not count; an estimate."""


class Hardware(Record):
    """A machine as seen by one process."""

    cpu: str
    cores: int
    """Cores that this process may use: affinity and container quota counted."""
    instruction_sets: tuple[str, ...]
    memory_bytes: int
    """All memory, or the container's limit."""
    memory_free_bytes: int
    device: Device
    device_name: str
    device_memory_bytes: int
    """Memory of the accelerator; that of the machine on a CPU."""
    compute_capability: tuple[int, int] | None
    """CUDA's; bfloat16 is in hardware from (8, 0) on, emulated below."""
    matmul_flops: dict[str, float]
    """Measured floating-point operations per second of a large matrix product on `device`, per dtype; empty if not
    measured."""
    passed_over: str = ""
    """A GPU that is here and cannot be used, and why."""

    @property
    def label(self) -> str:
        """A short name for result files, such as `cpu-2core-avx2`."""
        if self.device == "cuda":
            return "cuda-" + self.device_name.lower().replace("nvidia ", "").replace(" ", "-")
        kind = self.instruction_sets[-1] if self.instruction_sets else platform.machine()
        return f"{self.device}-{self.cores}core-{kind}"


def probe_hardware(*, wanted: Device | Literal["auto"] = "auto", rates_cache: Path | None = None) -> Hardware:
    """Look at this machine and the device to compute on: the `wanted` one, or the fastest kind that is there.

    With the folder `rates_cache`, also time matrix products on that device, and keep the best rates there.
    """
    import torch

    total, free = machine_memory_bytes()
    device: Device = "cpu"
    name, device_memory, capability = _cpu_name(), total, None
    passed_over = unusable_gpu() if wanted == "auto" else ""
    if wanted in ("auto", "cuda") and torch.cuda.is_available() and not passed_over:
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        device, name, device_memory = "cuda", str(properties.name), int(properties.total_memory)
        capability = (int(properties.major), int(properties.minor))
    elif wanted in ("auto", "mps") and torch.backends.mps.is_available():
        device, name = "mps", "Apple GPU"
    found = Hardware(
        cpu=_cpu_name(),
        cores=usable_cores(),
        instruction_sets=_instruction_sets(),
        memory_bytes=total,
        memory_free_bytes=free,
        device=device,
        device_name=name,
        device_memory_bytes=device_memory,
        compute_capability=capability,
        matmul_flops={},
        passed_over=passed_over,
    )
    return found if rates_cache is None else found.model_copy(update={"matmul_flops": _rates(found, rates_cache)})


def machine_memory_bytes() -> tuple[int, int]:
    """All memory of this machine, or the container's limit; and what of it is free."""
    import psutil

    memory, (limit, left) = psutil.virtual_memory(), memory_bytes()
    return min(int(memory.total), limit), min(int(memory.available), left)


def usable_cores() -> int:
    """Cores that this process may use: affinity and container quota counted."""
    cores = len(os.sched_getaffinity(0)) if platform.system() == "Linux" else os.cpu_count() or 1
    return max(1, int(min(cores, cpu_quota())))


def limit_libraries() -> None:
    """Compute in no more threads than there are usable cores, and keep few of the kernels that are made on the way.

    torch does not see a container's quota, and beyond it threads wait for one another. Fewer threads, by
    OMP_NUM_THREADS, stay fewer. oneDNN's kernels for bfloat16 are made for one shape each and kept, `KERNELS` of them
    where the environment does not say otherwise; to be called before the first product.
    """
    import torch

    for cache in KERNEL_CACHES:
        os.environ.setdefault(cache, str(KERNELS))
    if torch.get_num_threads() > usable_cores():
        torch.set_num_threads(usable_cores())


def gpu_free_bytes() -> dict[str, int]:
    """Every NVIDIA GPU that this process may use, as CUDA_VISIBLE_DEVICES names it → its free memory.

    The driver's own tool is asked: torch would open a context on each, which takes hundreds of megabytes.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None and not given.strip(" ,"):
        return {}
    chosen = [f"--id={given}"] if given else []
    try:
        told = subprocess.run(  # noqa: S603  a tool of the driver's, its options our own
            ["nvidia-smi", "--query-gpu=uuid,memory.free", "--format=csv,noheader,nounits", *chosen],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):  # no NVIDIA driver, or none of these GPUs
        return {}
    rows = [line.split(",") for line in told.stdout.splitlines()]
    # A GPU that shares the machine's memory has no number of its own.
    return {name: int(free) << 20 if free.strip().isdigit() else sys.maxsize for name, free in rows}


def process_memory_bytes() -> int:
    """Memory that this process holds now, what it shares with others counted in."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def check_device(device: str) -> None:
    """Refuse a configured device that this machine does not have.

    Raises:
        ConfigError: `cuda` or `mps` was asked for and is not here, or this PyTorch has no code for it.
    """
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(device, True):
        raise ConfigError(f"model.device = {device!r} is not on this machine", hint="leave it at 'auto'")
    if device == "cuda" and (why := unusable_gpu()):
        raise ConfigError(
            f"model.device = 'cuda' cannot be used: {why}",
            hint="install a PyTorch that was built for it (https://pytorch.org), or leave model.device at 'auto'",
        )


def choose_dtype(hardware: Hardware, device: Device | None = None) -> tuple[str, str]:
    """The number format that this machine computes fastest without emulation, and the reason in words.

    On another `device` than the one that `hardware` was measured on, nothing is known of a CPU's rates.
    """
    dtype, reason = _fastest_dtype(hardware, device or hardware.device)
    return dtype, f"{reason} ({hardware.passed_over})" if hardware.passed_over else reason


def _fastest_dtype(hardware: Hardware, device: Device) -> tuple[str, str]:
    if device == "mps":
        return "float32", "bfloat16 on Apple GPUs is not measured yet"
    half, known = "bfloat16", ""
    if device == "cuda":
        capability = hardware.compute_capability or (0, 0)
        has = "has" if capability >= (8, 0) else "has no"
        half = "bfloat16" if capability >= (8, 0) else "float16"
        known = f"compute capability {'.'.join(map(str, capability))} {has} bfloat16 in hardware"
    rates = hardware.matmul_flops if device == hardware.device else {}
    if "float32" not in rates or half not in rates:
        return (half, known) if known else ("float32", "bfloat16 has not been measured on this machine")
    ratio = rates[half] / rates["float32"]
    measured = f"a {half} matrix product runs at {ratio:.2f} times the rate of float32 here"
    # On a GPU 16 bits are worth having for the memory alone, unless they cost time.
    faster = ratio > 1 if known else ratio >= BF16_MIN_GAIN
    return (half if faster else "float32"), f"{known}, and {measured}" if known else measured


class PeakMemory:
    """The most memory held at one time in the `with` block: in tensors on the CUDA device, its context counted, if any
    came to be there; else by the process. What the device's allocator keeps beyond its tensors it gives back when
    memory runs short, and a cache that grows would let that be many times what is needed.

    One block may lie within another; the outer one's peak is that of both.
    """

    _open: ClassVar[list["PeakMemory"]] = []

    def __init__(self) -> None:
        self._process_bytes = self._cuda_bytes = self._cuda_before = 0

    @property
    def peak_bytes(self) -> int:
        """Known when the block has ended."""
        return self._cuda_bytes or self._process_bytes

    def __enter__(self) -> "PeakMemory":
        self._keep()
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: forget the peak so far
        if _cuda_in_use():
            import torch

            torch.cuda.reset_peak_memory_stats()
            self._cuda_before = torch.cuda.memory_allocated()  # of a stage before: a library's workspace stays
        self._open.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._keep()
        self._open.remove(self)

    def _keep(self) -> None:
        for block in self._open:
            block._process_bytes = max(block._process_bytes, process_peak_bytes())
            if (held := _cuda_peak_bytes()) > block._cuda_before:
                block._cuda_bytes = max(block._cuda_bytes, held + CUDA_CONTEXT_BYTES)


def process_peak_bytes() -> int:
    """Peak of the process since the last `PeakMemory` began; without Linux's counter, since the process began."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def can_compact_memory() -> bool:
    """Whether `compact_memory` has an effect: with the GNU C library."""
    return platform.libc_ver()[0] == "glibc"


def compact_memory(on: bool) -> None:
    """Let every tensor above 128 KiB lie in pages of its own, which go back to the system when it is freed.

    By default glibc keeps freed tensors of up to 32 MiB in its heap, where tensors that stay lie between them: training
    SmolLM2-135M with checkpointing on 3 x 512 tokens held 3.0 GB so, and 1.6 GB compact (benchmarks/plan_accuracy.py).
    The price is that the system clears all pages anew, about a fifth of the time. See mallopt(3), M_MMAP_THRESHOLD.
    """
    if can_compact_memory():
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, COMPACT_BYTES if on else HEAP_BYTES)


def release_memory() -> None:
    """Give what is not needed any more back to the system: the allocators like to keep it."""
    gc.collect()
    if _cuda_in_use():
        import torch

        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):  # GNU's C library has it
        ctypes.CDLL(None).malloc_trim(0)


def limit_cuda_memory(limit_bytes: int | None) -> None:
    """Let torch hold no more than so many bytes on its CUDA device, and run out of memory beyond; None: all of them."""
    import torch

    _, total = torch.cuda.mem_get_info()
    share = 1.0 if limit_bytes is None else max(0.0, min(1.0, limit_bytes / total))
    torch.cuda.set_per_process_memory_fraction(share)


@contextmanager
def out_of_memory_told(work: str, hint: str) -> Iterator[None]:
    """Say in words that `work` in the `with` block found no more memory on a GPU, and what to do about it.

    Raises:
        OutOfMemoryError: it did.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"{work} needs more memory than the GPU has free", hint=hint, work=work) from error


def _cuda_in_use() -> bool:
    """Whether torch is loaded and has touched a CUDA device; a stage without torch must not load it for this."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def _cuda_peak_bytes() -> int:
    """The most that tensors took on the CUDA device."""
    if not _cuda_in_use():
        return 0
    import torch

    return int(torch.cuda.max_memory_allocated())


def _rates(hardware: Hardware, cache: Path) -> dict[str, float]:
    import torch

    limit_libraries()
    machine = [
        hardware.device,
        hardware.cpu,
        hardware.cores,
        hardware.instruction_sets,
        hardware.device_name,
        torch.__version__,
        torch.get_num_threads(),
        os.environ.get("ONEDNN_MAX_CPU_ISA", ""),
    ]
    with out_of_memory_told("timing a matrix product", "see in nvidia-smi what else holds memory there"):
        rates = matrix_product_rates(hardware.device, machine, cache)
    release_memory()  # a GPU's allocator would keep what the products took, and it would not count as free
    return rates


def _cpu_name() -> str:
    for field in ("model name", "Model"):
        value = _cpuinfo(field)
        if value:
            return value
    return platform.processor() or platform.machine()


def _instruction_sets() -> tuple[str, ...]:
    flags = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    return tuple(word for flag, word in INSTRUCTION_SETS.items() if flag in flags)


def _cpuinfo(field: str) -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""
