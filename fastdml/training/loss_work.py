"""A loss and the batches that it is measured on, by name and numbers, so that any process can make them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fastdml.training.catalogue import find_loss


@dataclass(frozen=True)
class LossWork:
    """What a loss is given to do.

    Attributes:
        loss: a name of the loss catalogue.
        dim: width of the embeddings.
        samples_per_class: in a batch. Where the loss has centres, a batch of more classes than these begins
            with the first again.
        classes: how many the loss has centres of, where it has centres.
        options: arguments of the loss that differ from the catalogue's.
    """

    loss: str
    dim: int
    samples_per_class: int
    classes: int
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def centred(self) -> bool:
        """Whether the loss has centres of classes."""
        return find_loss(self.loss).center_rate is not None

    def make(self, device: torch.device | str = "cpu") -> nn.Module:
        """The loss, with fresh parameters."""
        return find_loss(self.loss).make(self.classes, self.dim, **self.options).to(device)

    def batch(self, size: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Embeddings float32 [size, dim] that gather loosely around their classes; labels int64 [size]."""
        generator = torch.Generator().manual_seed(size)
        labels = torch.arange(size) // self.samples_per_class
        if self.centred:
            labels %= self.classes
        centres = torch.randn(int(labels.max()) + 1, self.dim, generator=generator)
        points = centres[labels] + torch.randn(size, self.dim, generator=generator)
        return points.to(device).requires_grad_(), labels.to(device)
