"""What the device itself can do, measured in the run of the contestants: matrix rates and copy bandwidth."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from bench.interleaved import quantiles

SGEMM_SIDE = 2048
GPU_SIDE = 8192
COPY_BYTES = 1 << 32
Action = Callable[[], object]


class Ceiling:
    """One rate, sampled now and then through a run; quantiles at the end.

    Args:
        amount: what one action gets done, in ``unit`` times seconds.
        make: makes the action, whose buffers live for one sample: they would take memory from contestants.
    """

    def __init__(self, name: str, unit: str, amount: float, make: Callable[[], Action], device: str) -> None:
        self.name, self.unit, self.amount, self.make = name, unit, amount, make
        self.device = device
        self.rates: list[float] = []

    def sample(self, times: int = 3) -> None:
        """Takes ``times`` samples, after one that does not count."""
        action = self.make()
        _seconds(action, self.device)
        self.rates += [self.amount / _seconds(action, self.device) for _ in range(times)]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        p20, p50, p80 = quantiles(self.rates)
        return {"p20": p20, "p50": p50, "p80": p80, "unit": self.unit, "samples": len(self.rates)}


def cpu_ceilings(side: int = SGEMM_SIDE) -> list[Ceiling]:
    """The float32 matrix rate of all threads, as torch.mm reaches it."""
    return [_matrix_rate("sgemm", torch.float32, side, "cpu", "GFLOP/s", 1e-9)]


def cuda_ceilings(side: int = GPU_SIDE, copy_bytes: int = COPY_BYTES) -> list[Ceiling]:
    """Matrix rates by dtype, float32 without TF32, and the bandwidth of a copy on the device."""
    return [
        _matrix_rate("sgemm", torch.float32, side // 2, "cuda", "TFLOP/s", 1e-12),
        _matrix_rate("bf16", torch.bfloat16, side, "cuda", "TFLOP/s", 1e-12),
        _matrix_rate("fp16", torch.float16, side, "cuda", "TFLOP/s", 1e-12),
        Ceiling("copy", "TB/s", 2e-12 * copy_bytes, lambda: _copy(copy_bytes), "cuda"),
    ]


def _matrix_rate(name: str, dtype: torch.dtype, side: int, device: str, unit: str, scale: float) -> Ceiling:
    def make() -> Action:
        # Random, not zeros: a matrix of zeros multiplies faster than real data.
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        return lambda: torch.mm(a, b, out=out)

    return Ceiling(name, unit, 2.0 * side**3 * scale, make, device)


def _copy(count: int) -> Action:
    source = torch.empty(count // 4, dtype=torch.float32, device="cuda").normal_()
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _seconds(action: Action, device: str) -> float:
    if device == "cuda":
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begun.record()
        action()
        ended.record()
        ended.synchronize()
        return begun.elapsed_time(ended) / 1e3
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
