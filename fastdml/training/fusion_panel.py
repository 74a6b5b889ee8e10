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
from fastdml.errors import BackendError
from fastdml.training import fusion_memory
from fastdml.training.catalogue import find_loss

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

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure(
    loss_name: str,
    backend: str,
    device: torch.device,
    dim: int,
    samples_per_class: int,
    seconds: float = 14.0,
    sizes: Sequence[int] = SIZES,
    go_on: Callable[[], bool] = lambda: True,
) -> FusionPanel:
    """Measure both, smallest batch first, in about ``seconds``; sizes that would not fit are left out.

    Args:
        loss_name: a name of the loss catalogue.
        backend: the backend that the run used, compared with "reference"; "blocked" takes its place where it
            has no kernels for this loss.
        go_on: asked between sizes; False ends the measurement with what there is.
    """
    started = time.perf_counter()
    if backend == "reference":
        how = "The run used the dense reference itself, so there is nothing to compare it with."
        return FusionPanel([], backend, dim, samples_per_class, how, 0.0)
    loss = find_loss(loss_name).make().to(device)
    backend = _that_runs(loss, backend, make_batch(2 * samples_per_class, samples_per_class, dim, device))
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
        timed.append((size, *_interleaved(loss, backend, device, size, samples_per_class, dim, share)))
    measured = [size for size, *_ in timed]
    if device.type == "cuda":
        peaks = {
            name: _cuda_peaks(loss, name, device, measured, samples_per_class, dim)
            for name in (backend, "reference")
        }
        how = "Memory: torch.cuda.max_memory_allocated during a step, less what was allocated before it."
    elif resident_memory.can_measure() and go_on():
        peaks = {
            name: fusion_memory.peak_memory(
                loss_name, name, measured, samples_per_class, dim, timeout=seconds
            )
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
    return FusionPanel(rows, backend, dim, samples_per_class, how, time.perf_counter() - started)


def make_batch(
    size: int, samples_per_class: int, dim: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Embeddings float32 [size, dim] that gather loosely around their classes, and labels int64 [size]."""
    generator = torch.Generator().manual_seed(size)
    labels = torch.arange(size) // samples_per_class
    centres = torch.randn(int(labels[-1]) + 1, dim, generator=generator)
    points = centres[labels] + torch.randn(size, dim, generator=generator)
    return points.to(device).requires_grad_(), labels.to(device)


def _that_runs(loss: nn.Module, backend: str, batch: tuple[Tensor, Tensor]) -> str:
    try:
        with fastdml.use_backend(backend):
            loss(*batch)
    except BackendError:
        return "blocked"
    return backend


def _interleaved(
    loss: nn.Module, backend: str, device: torch.device, size: int, per_class: int, dim: int, seconds: float
) -> tuple[float, float, int]:
    """Median seconds a step of the fused and of the dense form, and the number of rounds."""
    batch = make_batch(size, per_class, dim, device)
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
            loss(embeddings, labels).backward()
        _wait_for(embeddings)
        return (time.perf_counter() - begun) / repeats


def _cuda_peaks(
    loss: nn.Module, backend: str, device: torch.device, sizes: Sequence[int], per_class: int, dim: int
) -> dict[int, int]:
    peaks = {}
    for size in sizes:
        embeddings, labels = make_batch(size, per_class, dim, device)
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
