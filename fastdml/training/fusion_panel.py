"""What fusing buys on this machine: time and memory of a loss step, fastdml against the dense reference."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

import fastdml
from fastdml import resident_memory
from fastdml.training import fusion_memory
from fastdml.training.loss_work import LossWork

SIZES = (128, 256, 512, 1024, 2048, 4096)
_ROUNDS = (3, 25)  # least and most rounds of a size
_SHORT = 0.002  # seconds; a shorter step is repeated inside one timing until it takes about this long


@dataclass(frozen=True)
class FusionRow:
    """One batch size. Seconds are medians of ``rounds`` interleaved steps (forward and backward of the loss);
    bytes are the peak beyond what was held before the step, None where it was not measured."""

    batch: int
    fused_seconds: float
    dense_seconds: float
    fused_bytes: int | None
    dense_bytes: int | None
    rounds: int


@dataclass(frozen=True)
class FusionPanel:
    """The rows, what was compared, and how memory was measured. Empty where there was nothing to compare."""

    rows: list[FusionRow]
    backend: str
    dim: int
    samples_per_class: int
    how: str
    seconds: float
    classes: int | None = None
    """How many classes the loss has centres of; None where it has none."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure(
    work: LossWork,
    backend: str,
    device: torch.device,
    seconds: float = 14.0,
    sizes: Sequence[int] = SIZES,
    go_on: Callable[[], bool] = lambda: True,
) -> FusionPanel:
    """Measure both, smallest batch first, in about ``seconds``; sizes that would not fit are left out.

    Args:
        backend: the backend that computes this loss, compared with "reference".
        go_on: asked between sizes; False ends the measurement with what there is.
    """
    started = time.perf_counter()
    classes = work.classes if work.centred else None
    if backend == "reference":
        how = "The run used the dense reference itself, so there is nothing to compare it with."
        return FusionPanel([], backend, work.dim, work.samples_per_class, how, 0.0, classes)
    loss = work.make(device)
    timed: list[tuple[int, float, float, int]] = []
    for position, size in enumerate(sizes):
        if not go_on():
            break
        left = 0.65 * seconds - (time.perf_counter() - started)
        # Dense time grows fourfold and more with each doubling: stop before what cannot be afforded.
        expected = 5.0 * timed[-1][2] * (_ROUNDS[0] + 1) if timed else 0.0
        if expected > left:
            break
        share = left * 2.0 ** (position - len(sizes))
        timed.append((size, *_interleaved(loss, backend, work.batch(size, device), share)))
    measured = [size for size, *_ in timed]
    if device.type == "cuda":
        peaks = {name: _cuda_peaks(loss, name, work, device, measured) for name in (backend, "reference")}
        how = "Memory: torch.cuda.max_memory_allocated during a step, less what was allocated before it."
    elif resident_memory.can_measure() and go_on():
        peaks = {
            name: fusion_memory.peak_memory(work, name, measured, timeout=seconds)
            for name in (backend, "reference")
        }
        how = (
            "Memory: highest resident set of a separate process during one forward and backward (VmHWM, "
            "reset before each), less its resident set just before; it includes the gradient."
        )
    else:
        peaks = {backend: {}, "reference": {}}
        how = "Memory was not measured: this system does not let a process reset its high-water mark."
    rows = [
        FusionRow(size, fused, dense, peaks[backend].get(size), peaks["reference"].get(size), rounds)
        for size, fused, dense, rounds in timed
    ]
    spent = time.perf_counter() - started
    return FusionPanel(rows, backend, work.dim, work.samples_per_class, how, spent, classes)


def _interleaved(
    loss: nn.Module, backend: str, batch: tuple[Tensor, Tensor], seconds: float
) -> tuple[float, float, int]:
    """Median seconds a step of the fused and of the dense form, and the number of rounds."""
    times: dict[str, list[float]] = {backend: [], "reference": []}
    repeats = {}
    for name in times:
        first = _time_steps(loss, name, batch, 1)  # also the warm-up
        again = first if first > 20 * _SHORT else _time_steps(loss, name, batch, 2)
        repeats[name] = max(1, round(_SHORT / again))
    started = time.perf_counter()
    rounds = 0
    while rounds < _ROUNDS[0] or (rounds < _ROUNDS[1] and time.perf_counter() - started < seconds):
        for name, values in times.items():
            values.append(_time_steps(loss, name, batch, repeats[name]))
        rounds += 1
    return statistics.median(times[backend]), statistics.median(times["reference"]), rounds


def _time_steps(loss: nn.Module, backend: str, batch: tuple[Tensor, Tensor], repeats: int) -> float:
    embeddings, labels = batch
    with fastdml.use_backend(backend):
        _wait_for(embeddings)
        begun = time.perf_counter()
        for _ in range(repeats):
            embeddings.grad = None
            loss.zero_grad(set_to_none=True)
            loss(embeddings, labels).backward()
        _wait_for(embeddings)
        return (time.perf_counter() - begun) / repeats


def _cuda_peaks(
    loss: nn.Module, backend: str, work: LossWork, device: torch.device, sizes: Sequence[int]
) -> dict[int, int]:
    peaks = {}
    for size in sizes:
        embeddings, labels = work.batch(size, device)
        loss.zero_grad(set_to_none=True)
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        with fastdml.use_backend(backend):
            loss(embeddings, labels).backward()
        torch.cuda.synchronize(device)
        peaks[size] = torch.cuda.max_memory_allocated(device) - before
    return peaks


def _wait_for(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
