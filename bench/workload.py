"""The batches that every contestant is given."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from bench.results import Size

PER_CLASS = 8
UNEVEN = (2, 2, 3, 3, 4, 5, 5, 5, 6, 7, 9, 12)
"""Sizes of classes much as in the test set of Stanford Online Products: 5.3 on average, there too."""
SPREAD = 2.0
UNEVEN_SPREAD = 2.2
"""At 60,502 x 512 Recall@1 is 78 %, about what trained networks reach there."""
DESCRIPTION = (
    f"{PER_CLASS} samples a class, labels shuffled; a row is its class's centre plus {SPREAD:g} times as "
    "much noise, both Gaussian, so that mining with epsilon 0.1 keeps about half of the negatives; in "
    f"retrieval_sop {UNEVEN[0]} to {UNEVEN[-1]} samples a class and {UNEVEN_SPREAD:g} times as much noise"
)


@dataclass(frozen=True)
class Workload:
    """One size: N samples of D numbers, in classes of one size or of uneven ones."""

    samples: int
    width: int
    dtype: str = "float32"
    device: str = "cpu"
    uneven: bool = False

    def make(self, requires_grad: bool = True) -> tuple[Tensor, Tensor]:
        """Embeddings [N, D] and labels [N], the same at every call."""
        generator = torch.Generator(self.device).manual_seed(self.samples + self.width)
        drawn: dict[str, Any] = {"generator": generator, "device": self.device}
        labels = self._sorted_labels(drawn)
        classes = int(labels[-1]) + 1
        labels = labels[torch.randperm(self.samples, **drawn)]
        dtype = getattr(torch, self.dtype)
        centres = torch.randn(classes, self.width, **drawn).to(dtype)
        # In the final dtype: at a million rows a float32 copy would be the largest thing on the device.
        rows = torch.randn(self.samples, self.width, generator=generator, device=self.device, dtype=dtype)
        rows.mul_(UNEVEN_SPREAD if self.uneven else SPREAD).add_(centres[labels])
        return rows.requires_grad_(requires_grad), labels

    def _sorted_labels(self, drawn: dict[str, Any]) -> Tensor:
        if not self.uneven:
            return torch.arange(self.samples, device=self.device) // PER_CLASS
        sizes = torch.tensor(UNEVEN, device=self.device)
        sizes = sizes[torch.randint(len(UNEVEN), (self.samples,), **drawn)]
        labels = torch.arange(self.samples, device=self.device).repeat_interleave(sizes)[: self.samples]
        labels[-1] = labels[-2]  # the class that is cut off must not be left with one sample
        return labels

    @property
    def size(self) -> Size:
        """Where its rows stand in a results file."""
        return Size(self.samples, self.width, self.dtype)

    @property
    def gradient_bytes(self) -> int:
        """Bytes of the gradient of the embeddings."""
        return self.samples * self.width * getattr(torch, self.dtype).itemsize

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"N {self.samples} D {self.width} {self.dtype}"
