"""The batches that every contestant is given."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from bench.results import Size

PER_CLASS = 8
SPREAD = 2.0
DESCRIPTION = (
    f"{PER_CLASS} samples a class, labels shuffled; a row is its class's centre plus {SPREAD:g} times as "
    "much noise, both Gaussian, so that mining with epsilon 0.1 keeps about half of the negatives"
)


@dataclass(frozen=True)
class Workload:
    """One size: N samples of D numbers."""

    samples: int
    width: int
    dtype: str = "float32"
    device: str = "cpu"

    def make(self, requires_grad: bool = True) -> tuple[Tensor, Tensor]:
        """Embeddings [N, D] and labels [N], the same at every call."""
        generator = torch.Generator(self.device).manual_seed(self.samples + self.width)
        drawn: dict[str, Any] = {"generator": generator, "device": self.device}
        labels = torch.arange(self.samples, device=self.device) // PER_CLASS
        labels = labels[torch.randperm(self.samples, **drawn)]
        dtype = getattr(torch, self.dtype)
        centres = torch.randn(-(-self.samples // PER_CLASS), self.width, **drawn).to(dtype)
        # In the final dtype: at a million rows a float32 copy would be the largest thing on the device.
        rows = torch.randn(self.samples, self.width, generator=generator, device=self.device, dtype=dtype)
        rows.mul_(SPREAD).add_(centres[labels])
        return rows.requires_grad_(requires_grad), labels

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
