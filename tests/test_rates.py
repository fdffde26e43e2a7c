"""Rates are measured on a few occasions, on a GPU with matrices that fit, and the best is kept."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vademecum import rates
from vademecum.hardware import probe_hardware


def test_the_best_of_a_few_measured_rates_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"float32": [1e9, 3e9, 2e9], "bfloat16": [5e9, 4e9, 3e9]}
    monkeypatch.setattr(rates, "matrix_product_rate", lambda dtype, _: found[dtype].pop(0))
    assert probe_hardware(wanted="cpu").matmul_flops == {}
    kept = [probe_hardware(wanted="cpu", rates_cache=tmp_path).matmul_flops for _ in range(4)]
    assert [rate["float32"] for rate in kept] == [1e9, 3e9, 3e9, 3e9]  # the fourth time nothing was measured
    assert {rate["bfloat16"] for rate in kept} == {5e9}
    found["float32"], found["bfloat16"] = [7e9], [7e9]
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")  # another machine, as far as rates go
    assert probe_hardware(wanted="cpu", rates_cache=tmp_path).matmul_flops["float32"] == 7e9


def test_a_matrix_product_is_timed() -> None:
    assert rates.matrix_product_rate("float32", "cpu", seconds=0.01) > 0


def test_timing_leaves_the_random_numbers_of_a_run_alone() -> None:
    state = torch.get_rng_state()
    rates.matrix_product_rate("bfloat16", "cpu", seconds=0.01)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("device", "best"), [("cpu", 2.0), ("cpu:0", 1.0)])
def test_the_first_product_is_not_timed_but_on_a_cpu(device: str, best: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cpu:0` stands for a GPU: it is not called `cpu`, and every machine has it."""
    clock = SimpleNamespace(now=0.0, seconds=iter([3.0, 2.0, 1.0, 4.0]))
    multiply = torch.Tensor.__matmul__

    def slow(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        clock.now += next(clock.seconds)
        return multiply(left, right)

    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(torch.Tensor, "__matmul__", slow)
    assert rates._timed("float32", device, (4, 8), 3.0 if device == "cpu:0" else 5.0) == 2 * 4 * 8 * 8 / best


def test_rates_that_were_measured_in_another_way_are_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = iter([9e12, 9e12, 1e12, 1e12])
    monkeypatch.setattr(rates, "matrix_product_rate", lambda *_: next(measured))
    monkeypatch.setattr(rates, "METHOD", 1)
    rates.matrix_product_rates("cpu", ["some"], tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(rates, "matrix_product_rate", lambda *_: next(measured))
    assert rates.matrix_product_rates("cpu", ["some"], tmp_path)["float32"] == 1e12


def test_a_gpu_multiplies_the_largest_matrices_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[int, int]] = []

    def timed(dtype: str, device: str, shape: tuple[int, int], seconds: float) -> float:
        tried.append(shape)
        if shape[0] > fitting:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 256.00 MiB.")
        return float(shape[0])

    monkeypatch.setattr(rates, "_timed", timed)
    fitting = 2048
    assert rates.matrix_product_rate("float32", "cuda") == 2048
    assert tried == [(8192, 8192), (4096, 4096), (2048, 2048)]
    fitting = 0
    with pytest.raises(torch.OutOfMemoryError):
        rates.matrix_product_rate("float32", "cuda")


def test_another_error_than_a_full_gpu_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(*_: object) -> float:
        raise RuntimeError("no kernel image is available for execution on the device")

    monkeypatch.setattr(rates, "_timed", timed)
    with pytest.raises(RuntimeError, match="kernel image"):
        rates.matrix_product_rate("float32", "cuda")
