"""What this machine can do: number formats from measured rates, cores and memory as a container really gives them."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vademecum import cgroups
from vademecum import hardware as module
from vademecum import rates as measuring
from vademecum.errors import ConfigError, RunError
from vademecum.hardware import Hardware, PeakMemory, can_compact_memory, choose_dtype, probe_hardware

GIB = 2**30


def machine(**facts: object) -> Hardware:
    told: dict[str, object] = {
        "cpu": "Some CPU", "cores": 2, "instruction_sets": ("avx2",), "memory_bytes": 8 * GIB,
        "memory_free_bytes": 4 * GIB, "device": "cpu", "device_name": "Some CPU", "device_memory_bytes": 8 * GIB,
        "compute_capability": None, "matmul_flops": {},
    }  # fmt: skip
    return Hardware.model_validate(told | facts)


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that stands for the root of the file system: /proc and /sys are looked for in it."""
    for reader in (module, cgroups):
        monkeypatch.setattr(
            reader, "Path", lambda *parts: tmp_path.joinpath(*(str(part).lstrip("/") for part in parts))
        )
    return tmp_path


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A CUDA device of 16 GB that was looked at; what torch says of it and is told for it."""
    told: dict[str, Any] = {"held": 0, "before": 0, "share": None}
    properties = SimpleNamespace(name="NVIDIA T4", total_memory=16 * 10**9, major=7, minor=5)
    for name, answer in {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "current_device": lambda: 0,
        "get_device_properties": lambda _: properties,
        "mem_get_info": lambda: (12 * 10**9, 16 * 10**9),
        "max_memory_allocated": lambda: told["held"],
        "memory_allocated": lambda: told["before"],
        "reset_peak_memory_stats": lambda: None,
        "empty_cache": lambda: None,
        "set_per_process_memory_fraction": lambda share: told.update(share=share),
    }.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    return told


def write(root: Path, name: str, text: str) -> None:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("rates", "dtype", "reason"),
    [
        ({"float32": 1e11, "bfloat16": 1e9}, "float32", "0.01 times"),  # AVX2 alone: bfloat16 is emulated
        ({"float32": 1e11, "bfloat16": 1.1e11}, "float32", "1.10 times"),  # no gain worth its rounding
        ({"float32": 1e11, "bfloat16": 2e11}, "bfloat16", "2.00 times"),  # AVX512-BF16 or AMX
        ({}, "float32", "not been measured"),
    ],
)
def test_a_cpu_goes_by_what_was_measured(rates: dict[str, float], dtype: str, reason: str) -> None:
    chosen, why = choose_dtype(machine(matmul_flops=rates))
    assert chosen == dtype
    assert reason in why


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="AVX2 is an instruction set of x86")
def test_a_processor_held_down_to_avx2_computes_in_float32(tmp_path: Path) -> None:
    """Measured for real, in a process of its own: oneDNN reads the variable once."""
    held = {"ONEDNN_MAX_CPU_ISA": "AVX2", "CUDA_VISIBLE_DEVICES": "", "VADE_CACHE": str(tmp_path)}
    command = [sys.executable, "-m", "vademecum", "--json", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **held})
    found = json.loads(done.stdout)
    rates = found["matmul_flops"]
    assert found["dtype"] == "float32", found["reason"]
    assert min(rates.values()) > 0
    assert f"{rates['bfloat16'] / rates['float32']:.2f} times" in found["reason"]
    assert len(list(tmp_path.glob("matmul-rates-*.json"))) == 1  # nothing measured without the variable was taken


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16"), (None, "float16")]
)
def test_a_cuda_device_goes_by_its_compute_capability(capability: tuple[int, int] | None, dtype: str) -> None:
    chosen, why = choose_dtype(machine(device="cuda", device_name="NVIDIA T4", compute_capability=capability))
    assert chosen == dtype
    assert "compute capability" in why


@pytest.mark.parametrize(
    ("capability", "rates", "dtype", "times"),
    [
        ((7, 5), {"float32": 4e12, "bfloat16": 3e12, "float16": 2e13}, "float16", "5.00 times"),  # T4
        ((6, 1), {"float32": 1e13, "bfloat16": 1e12, "float16": 2e11}, "float32", "0.02 times"),  # emulated
        ((8, 0), {"float32": 2e13, "bfloat16": 2.2e14, "float16": 2.2e14}, "bfloat16", "11.00 times"),
        ((8, 6), {"float32": 1e13, "bfloat16": 1e13, "float16": 2e13}, "float32", "1.00 times"),
        ((8, 6), {"float32": 1e13, "bfloat16": 1.1e13, "float16": 1e12}, "bfloat16", "1.10 times"),  # half the memory
    ],
)
def test_16_bits_that_are_not_faster_on_a_gpu_are_not_taken(
    capability: tuple[int, int], rates: dict[str, float], dtype: str, times: str
) -> None:
    chosen, why = choose_dtype(machine(device="cuda", compute_capability=capability, matmul_flops=rates))
    assert chosen == dtype
    assert times in why
    assert f"compute capability {capability[0]}.{capability[1]}" in why


def test_the_device_that_was_configured_decides() -> None:
    rates = {"float32": 1e11, "bfloat16": 1e12}
    both = machine(device="cuda", device_name="NVIDIA A10G", compute_capability=(8, 6), matmul_flops=rates)
    assert choose_dtype(both)[0] == "bfloat16"
    assert choose_dtype(both, "cpu") == ("float32", "bfloat16 has not been measured on this machine")
    assert choose_dtype(machine(), "mps")[0] == "float32"


def test_a_gpu_that_pytorch_has_no_code_for_is_passed_over(
    gpu: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (probe_hardware().device, probe_hardware().passed_over) == ("cuda", "")
    module.check_device("cuda")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])
    found = probe_hardware()
    assert (found.device, found.compute_capability) == ("cpu", None)
    assert "NVIDIA T4 has compute capability 7.5" in found.passed_over
    assert "sm_80, sm_90" in found.passed_over
    assert "NVIDIA T4" in choose_dtype(found)[1]
    assert probe_hardware(wanted="cpu").passed_over == ""
    module.check_device("auto")
    with pytest.raises(ConfigError, match=r"'cuda' cannot be used: NVIDIA T4.*sm_80"):
        module.check_device("cuda")


def test_rates_are_those_of_the_device_that_is_computed_on(
    gpu: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {"cpu": 1e11, "cuda": 1e13}
    monkeypatch.setattr(measuring, "matrix_product_rate", lambda _, device: rates[device])
    for wanted, device, least_bytes in (("auto", "cuda", 16 * 10**9), ("cpu", "cpu", 0), ("cuda", "cuda", 16 * 10**9)):
        found = probe_hardware(wanted=wanted, rates_cache=tmp_path)  # type: ignore[arg-type]
        assert (found.device, found.matmul_flops["float32"]) == (device, rates[device])
        assert found.device_memory_bytes >= least_bytes
        assert (found.compute_capability is None) == (device == "cpu")


def test_a_gpu_without_room_for_the_smallest_matrices_says_so(
    gpu: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(measuring, "matrix_product_rate", full)
    with pytest.raises(RunError, match="timing a matrix product needs more memory"):
        probe_hardware(rates_cache=tmp_path)


def test_the_peak_of_a_block_is_that_of_the_blocks_within() -> None:
    with PeakMemory() as outer:
        with PeakMemory() as inner:
            held = b"x" * 200_000_000
            del held
        with PeakMemory() as later:
            pass
    assert outer.peak_bytes >= inner.peak_bytes >= 200_000_000
    assert inner.peak_bytes >= later.peak_bytes > 0


def test_a_gpu_that_was_only_looked_at_has_no_peak(gpu: dict[str, Any]) -> None:
    with PeakMemory() as looked:
        pass
    with PeakMemory() as outer, PeakMemory() as inner:
        gpu["held"] = 2_000_000
    assert looked.peak_bytes > 10_000_000  # a process with torch holds more than that
    assert inner.peak_bytes == outer.peak_bytes == 2_000_000 + module.CUDA_CONTEXT_BYTES


def test_what_a_stage_before_left_on_a_gpu_is_no_peak(gpu: dict[str, Any]) -> None:
    gpu.update(held=9_000_000, before=9_000_000)
    with PeakMemory() as idle:
        pass
    assert idle.peak_bytes > 100_000_000  # the process's
    with PeakMemory() as busy:
        gpu["held"] = 9_000_001
    assert busy.peak_bytes == 9_000_001 + module.CUDA_CONTEXT_BYTES


@pytest.mark.parametrize(("limit_bytes", "share"), [(4 * 10**9, 0.25), (None, 1.0), (40 * 10**9, 1.0), (-(10**9), 0.0)])
def test_a_gpu_s_memory_is_kept_to_a_limit(gpu: dict[str, Any], limit_bytes: int | None, share: float) -> None:
    module.limit_cuda_memory(limit_bytes)
    assert gpu["share"] == share


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_out_of_memory_is_told_in_words_and_nothing_else_is(error: Exception) -> None:
    with (
        pytest.raises(RunError, match="answering needs more memory than the GPU has") as caught,
        module.out_of_memory_told("answering", "lower generate.batch_size"),
    ):
        raise error
    assert caught.value.hint == "lower generate.batch_size"
    with pytest.raises(RuntimeError, match="shapes"), module.out_of_memory_told("answering", ""):
        raise RuntimeError("shapes cannot be multiplied")


def test_labels_are_short_and_without_spaces() -> None:
    assert machine().label == "cpu-2core-avx2"
    assert machine(cores=16, instruction_sets=("avx2", "avx512", "amx")).label == "cpu-16core-amx"
    assert machine(instruction_sets=()).label == f"cpu-2core-{platform.machine()}"
    assert machine(device="cuda", device_name="NVIDIA A10G 24GB").label == "cuda-a10g-24gb"


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 1), ("5000 100000", 1), ("9900000 100000", 8), ("", 8)],
)
def test_cores_are_those_of_the_affinity_and_the_quota(
    system: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    write(system, "sys/fs/cgroup/cpu.max", quota)
    assert module.usable_cores() == cores


@pytest.mark.parametrize(("threads", "kept"), [(6, 2), (2, 2), (1, 1)])
def test_threads_are_no_more_than_the_quota_is_worth(
    system: Path, monkeypatch: pytest.MonkeyPatch, threads: int, kept: int
) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    write(system, "sys/fs/cgroup/cpu.max", "200000 100000")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)  # by default the machine's, or OMP_NUM_THREADS
        module.limit_libraries()
        assert torch.get_num_threads() == kept
    finally:
        torch.set_num_threads(before)


MANY_SHAPES = """
import sys
import torch
from vademecum.hardware import limit_libraries, process_memory_bytes
limit_libraries()
weights = [torch.ones(512, 64 + 32 * number).bfloat16() for number in range(8)]
with torch.inference_mode():
    for weight in weights:
        torch.nn.functional.linear(torch.ones(200, weight.shape[1]).bfloat16(), weight)
    before = process_memory_bytes()
    for rows in range(1, 120):
        for weight in weights:
            torch.nn.functional.linear(torch.ones(rows, weight.shape[1]).bfloat16(), weight)
print(process_memory_bytes() - before)
"""


@pytest.mark.skipif("avx512bf16" not in module._instruction_sets(), reason="kernels are made for such cores")
def test_kernels_are_kept_for_as_few_shapes_as_the_environment_or_we_say() -> None:
    def grown(**environment: str) -> int:
        script = [sys.executable, "-c", MANY_SHAPES]
        inherited = {name: value for name, value in os.environ.items() if name not in module.KERNEL_CACHES}
        found = subprocess.run(script, env={**inherited, **environment}, check=True, capture_output=True, text=True)
        return int(found.stdout)

    few, many = grown(), grown(**dict.fromkeys(module.KERNEL_CACHES, "1024"))
    assert few < many / 2


def test_cores_without_a_container(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    assert module.usable_cores() == 10


def test_memory_is_the_containers_where_that_is_less(system: Path) -> None:
    assert probe_hardware().memory_bytes > 0
    write(system, "sys/fs/cgroup/memory.max", f"{GIB}\n")
    write(system, "sys/fs/cgroup/memory.current", f"{GIB // 4}\n")
    limited = probe_hardware()
    assert limited.memory_bytes == GIB
    assert limited.memory_free_bytes <= GIB - GIB // 4
    write(system, "sys/fs/cgroup/memory.current", f"{2 * GIB}\n")
    assert probe_hardware().memory_free_bytes == 0


def test_no_limit_is_no_number(system: Path) -> None:
    free = probe_hardware().memory_bytes
    write(system, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")  # version 1's way to say none
    assert probe_hardware().memory_bytes == free
    write(system, "sys/fs/cgroup/memory.max", "max\n")
    assert probe_hardware().memory_bytes == free


@pytest.mark.parametrize(
    ("cpuinfo", "name", "sets"),
    [
        (
            "processor\t: 0\nmodel name\t: Fast 9000\nflags\t\t: fpu avx2 fma\n\nprocessor\t: 1\n",
            "Fast 9000",
            ("avx2",),
        ),
        (
            "model name : Server\nflags : amx_bf16 avx2 avx512_bf16 avx512f\n",
            "Server",
            ("avx2", "avx512", "avx512bf16", "amx"),
        ),
        ("Features\t: fp asimd sve\nModel\t\t: Small Board\n", "Small Board", ("neon", "sve")),
    ],
)
def test_the_processor_is_read_from_the_kernel(system: Path, cpuinfo: str, name: str, sets: tuple[str, ...]) -> None:
    write(system, "proc/cpuinfo", cpuinfo)
    assert module._cpu_name() == name
    assert module._instruction_sets() == sets


def test_a_processor_that_the_kernel_does_not_name(system: Path) -> None:
    assert module._cpu_name() == (platform.processor() or platform.machine())
    assert module._instruction_sets() == ()


@pytest.mark.skipif(not can_compact_memory(), reason="the C library has no mallopt")
def test_compact_memory_leaves_no_holes_behind() -> None:
    """Small tensors that stay, between large ones that go, keep a heap from shrinking; pages of their own go back."""
    script = """
import sys, torch
from vademecum.hardware import compact_memory, process_memory_bytes
compact_memory(sys.argv[1] == "compact")
before = process_memory_bytes()
large, small = [], []
for _ in range(20):
    large.append(torch.ones(1 << 20))
    small.append(torch.ones(1 << 12))
del large
print(process_memory_bytes() - before)
"""
    held = {}
    for kind in ("heap", "compact"):
        done = subprocess.run([sys.executable, "-c", script, kind], capture_output=True, text=True, check=True)
        held[kind] = int(done.stdout)
    assert held["compact"] < 20e6
    assert held["heap"] > 70e6
