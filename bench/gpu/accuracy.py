"""Loss and gradient of Multi-Similarity on every fused backend, against the reference in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import fastdml
from bench.gpu.proof import Setting, require_as_accurate
from fastdml.functional import multi_similarity

Batch = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
EPSILONS = (0.1, None)
EVERY_KIND = ("width 128", "width 512", "candidates")
"""Batches with every kind of mining, each of which compiles the kernels anew."""


def accuracy(setting: Setting, backend: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """Every batch and dtype with one kind of mining, in turn: every two of the three meet several times."""
    for at, name in enumerate(batches(setting)):
        for shift, dtype in enumerate(setting.dtypes):
            for epsilon in EPSILONS if name in EVERY_KIND else (EPSILONS[(at + shift) % 2],):
                yield (
                    f"{name}, {dtype}, epsilon {epsilon}",
                    partial(_compare, setting, backend, name, dtype, epsilon),
                )


def batches(setting: Setting) -> dict[str, Callable[[], Batch]]:
    """Batches by name, float64 on the device: sizes beside the tiles', widths of all kernels, odd classes."""
    scale = 8 if setting.tiny else 1
    device = setting.device

    def self_pairs(count: int, width: int, classes: int) -> Batch:
        return _rows(count, width, device), _labels(count, classes, device), None, None

    def candidates(count: int, others: int, width: int, classes: int) -> Batch:
        first = self_pairs(count, width, classes)
        rows = _rows(others, width, device, seed=1)
        return first[0], first[1], rows, _labels(others, classes, device, seed=1)

    widths = (1, 40, 64) if setting.tiny else (1, 16, 40, 64, 100, 128, 200, 256, 300, 512, 520, 768, 1024)
    count = 1500 // scale
    found: dict[str, Callable[[], Batch]] = {
        f"width {width}": partial(self_pairs, count, width, count // 8) for width in widths
    }
    sizes = (2, 33, 129) if setting.tiny else (1, 2, 31, 33, 127, 128, 129, 1000, 2048, 4097)
    found |= {f"samples {n}": partial(self_pairs, n, 48, max(1, n // 8)) for n in sizes}
    found |= {
        "one class": partial(self_pairs, count // 4, 32, 1),
        "mostly singletons": partial(self_pairs, count, 32, 4 * count),
        "three classes": partial(self_pairs, count, 32, 3),
        "candidates": partial(candidates, count // 2, count, 96, count // 8),
        "few candidates": partial(candidates, count, 5, 32, 4),
        "few anchors": partial(candidates, 3, count, 512 // scale, 4),
    }
    return found


def _rows(count: int, width: int, device: str, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * count + width + seed)
    # Off centre, so that similarities spread over the range in which mining selects.
    return (torch.randn(count, width, generator=generator, dtype=torch.float64) + 0.4).to(device)


def _labels(count: int, classes: int, device: str, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(count + classes + seed)
    return torch.randint(classes, (count,), generator=generator).to(device)


def _compare(setting: Setting, backend: str, name: str, dtype: str, epsilon: float | None) -> str:
    embeddings, labels, refs, ref_labels = batches(setting)[name]()
    # Rounded first: what is judged is the arithmetic, not the rounding of the input.
    rounded = [None if x is None else x.to(getattr(torch, dtype)) for x in (embeddings, refs)]

    def dense(rows: Tensor, others: Tensor | None) -> Tensor:
        with fastdml.use_backend("reference"):
            return multi_similarity(rows, labels, others, ref_labels, epsilon=epsilon, reduction="none")

    def from_units(rows: Tensor, others: Tensor | None) -> Tensor:
        units = [None if x is None else F.normalize(x, dim=1).float() for x in (rows, others)]
        assert units[0] is not None
        return dense(units[0], units[1])

    def fused(rows: Tensor, others: Tensor | None) -> Tensor:
        with fastdml.use_backend(backend):
            return multi_similarity(rows, labels, others, ref_labels, epsilon=epsilon, reduction="none")

    truth = _run(dense, [None if x is None else x.double() for x in rounded])
    plain = _run(dense, rounded)
    if not all(bool(value.isfinite().all()) for value in plain.values()):
        # float16 ends at 65504, which e^25 exceeds: from unit rows on, plain PyTorch then goes on in float32
        plain = _run(from_units, rounded)
    return require_as_accurate(_run(fused, rounded), plain, truth)


def _run(loss: Callable[[Tensor, Tensor | None], Tensor], rows: list[Tensor | None]) -> dict[str, Tensor]:
    leaves = [None if x is None else x.detach().clone().requires_grad_() for x in rows]
    assert leaves[0] is not None
    losses = loss(leaves[0], leaves[1])
    # Upstream gradients that differ from row to row, and are not one.
    scale = torch.linspace(0.2, 1.7, len(losses), device=losses.device, dtype=losses.dtype)
    (losses * scale).sum().backward()
    found = {"loss": losses.detach()}
    for name, leaf in zip(("gradient", "ref gradient"), leaves, strict=True):
        if leaf is not None and leaf.grad is not None:
            found[name] = leaf.grad
    return found
