"""Batches that every pair loss must survive, and the measure by which a fused backend is judged."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Embeddings and labels, with or without separate candidates, in float64."""

    embeddings: Tensor
    labels: Tensor
    ref_embeddings: Tensor | None = None
    ref_labels: Tensor | None = None

    def to(self, dtype: torch.dtype) -> Batch:
        """The batch with its embeddings rounded to a dtype."""
        ref = None if self.ref_embeddings is None else self.ref_embeddings.to(dtype)
        return Batch(self.embeddings.to(dtype), self.labels, ref, self.ref_labels)


def make_batch(name: str) -> Batch:
    """One of `BATCHES`, the same at every call."""
    generator = torch.Generator().manual_seed(len(name) + sum(map(ord, name)))

    def rows(count: int, width: int) -> Tensor:
        # Off centre, so that similarities spread over the range in which mining selects.
        return torch.randn(count, width, generator=generator, dtype=torch.float64) + 0.4

    def classes(count: int, number: int) -> Tensor:
        return torch.randint(number, (count,), generator=generator)

    if name == "random":
        return Batch(rows(100, 24), classes(100, 12))
    if name == "sorted":
        return Batch(rows(96, 16), torch.arange(96) // 8)
    if name == "several blocks":
        # more than two of 256 rows; few of a class, for there are tests that list triplets
        return Batch(rows(560, 20), classes(560, 150))
    if name == "wide":
        return Batch(rows(40, 300), classes(40, 8))
    if name == "one column":
        return Batch(rows(30, 1), classes(30, 5))
    if name == "one sample":
        return Batch(rows(1, 8), classes(1, 1))
    if name == "one pair":
        return Batch(rows(2, 8), torch.tensor([3, 3]))
    if name == "one class":
        return Batch(rows(40, 8), torch.zeros(40, dtype=torch.int64))
    if name == "all distinct":
        return Batch(rows(40, 8), torch.randperm(40, generator=generator))
    if name == "half in one class":
        return Batch(rows(264, 8), torch.where(torch.arange(264) % 2 == 0, -5, torch.arange(264)))
    if name == "some without positives":
        return Batch(rows(50, 8), torch.cat([classes(30, 4), 100 + torch.arange(20)]))
    if name == "duplicates":
        embeddings = rows(20, 8).repeat(3, 1)
        return Batch(embeddings, torch.arange(20).repeat(3) // 2)
    if name == "zero vectors":
        embeddings = rows(40, 8)
        embeddings[[0, 7, 8]] = 0
        return Batch(embeddings, torch.arange(40) // 4)
    if name == "huge labels":
        return Batch(rows(40, 8), classes(40, 6) * (1 << 60) - (1 << 61))
    if name == "candidates":
        return Batch(rows(60, 16), classes(60, 9), rows(110, 16), classes(110, 12))
    if name == "more anchors than candidates":
        return Batch(rows(600, 8), classes(600, 20), rows(30, 8), classes(30, 25))
    if name == "one candidate":
        return Batch(rows(5, 8), classes(5, 2), rows(1, 8), classes(1, 2))
    raise KeyError(name)


BATCHES = (
    "random",
    "sorted",
    "several blocks",
    "wide",
    "one column",
    "one sample",
    "one pair",
    "one class",
    "all distinct",
    "half in one class",
    "some without positives",
    "duplicates",
    "zero vectors",
    "huge labels",
    "candidates",
    "more anchors than candidates",
    "one candidate",
)


def assert_as_accurate(
    found: Tensor, same_dtype: Tensor, truth: Tensor, what: str, beside: float = 0.0
) -> None:
    """Fails unless the error of `found` is at most twice that of plain PyTorch in the same dtype.

    1e-6 of the scale is allowed on top, for where PyTorch happens to be exact, and 1e-13, for the truth is
    rounded too, and what is said to be allowed beside. All three are compared in float64.
    """
    truth, found, same_dtype = truth.double(), found.double(), same_dtype.double()
    assert found.shape == truth.shape, f"{what}: shape {list(found.shape)}, expected {list(truth.shape)}"
    if truth.numel() == 0:
        return
    error = (found - truth).abs().max().item()
    allowed = 2 * (same_dtype - truth).abs().max().item() + 1e-6 * truth.abs().max().item() + 1e-13 + beside
    assert error <= allowed, f"{what}: error {error:.3e}, at most {allowed:.3e} is allowed"
