"""How fast a device multiplies matrices, measured and kept for the next process."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from vademecum.cuda import is_out_of_memory
from vademecum.files import digest_value, write_json

OCCASIONS = 3
"""So often are matrix products timed, then never again: a machine that is busy once does not spoil the rates."""
METHOD = 2
"""Which way of measuring: rates of another are not gone by. 1 had no warm-up and multiplied ones."""
GPU_SIDE, SMALLEST_SIDE = 8192, 512
"""Of the square matrices that a GPU multiplies, and of those that it does where larger ones do not fit."""


def matrix_product_rates(device: str, machine: Sequence[object], cache: Path) -> dict[str, float]:
    """Number format → floating-point operations per second of a large matrix product on `device`, the best of all
    occasions; `machine` is what tells this machine's rates from those of others in the folder `cache`.

    Raises:
        RuntimeError: PyTorch's, where a GPU has no room for the smallest matrices.
    """
    file = cache / f"matmul-rates-{digest_value([METHOD, *machine])[:16]}.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    rates: dict[str, float] = known.get("rates", {})
    occasions: int = known.get("occasions", 0)
    if occasions >= OCCASIONS:
        return rates
    dtypes = ["float32", "bfloat16"] + (["float16"] if device == "cuda" else [])
    rates = {dtype: max(rates.get(dtype, 0.0), matrix_product_rate(dtype, device)) for dtype in dtypes}
    write_json(file, {"occasions": occasions + 1, "rates": rates})
    return rates


def matrix_product_rate(dtype: str, device: str, seconds: float = 0.4) -> float:
    """Operations per second, the best of several products: (512 x 1024) @ (1024 x 1024) on a CPU, on a GPU the largest
    that fits."""
    if device == "cpu":
        return _timed(dtype, device, (512, 1024), seconds)
    side = GPU_SIDE
    while True:
        try:
            return _timed(dtype, device, (side, side), seconds)
        except RuntimeError as error:
            if side <= SMALLEST_SIDE or not is_out_of_memory(error):
                raise
        side //= 2


def _timed(dtype: str, device: str, shape: tuple[int, int], seconds: float) -> float:
    import torch

    rows, side = shape
    # Multiplying ones flips few bits, so a GPU would draw less power and hold a higher clock than with real numbers.
    chance = torch.Generator(device).manual_seed(0)
    left, right = (
        torch.randn(height, side, generator=chance, dtype=getattr(torch, dtype), device=device)
        for height in (rows, side)
    )

    def multiply() -> float:
        started = time.perf_counter()
        (left @ right)[0, 0].item()  # waits for an accelerator
        return time.perf_counter() - started

    if device != "cpu":
        multiply()  # the first one loads the library and its kernels; on a CPU it may take seconds, and counts
    best, spent = float("inf"), 0.0
    while spent < seconds:
        elapsed = multiply()
        best, spent = min(best, elapsed), spent + elapsed
    return 2 * rows * side * side / best
