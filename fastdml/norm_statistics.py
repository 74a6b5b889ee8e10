"""The running statistics of BatchNorm where a batch goes through a network in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass
class Chunk:
    """What is known of a chunk after its forward pass."""

    rows: int = 0


class NormStatistics:
    """Gathers what every chunk has of means and variances, and moves the running ones once a batch.

    The step is that of one batch whose mean and variance are the means over its chunks, weighted by their
    rows: it does not depend on the order of the chunks, nor on which rank has which.

    Args:
        model: its BatchNorms that are in training mode now, and keep running statistics.
    """

    def __init__(self, model: nn.Module) -> None:
        self._norms = [
            _Norm(module)
            for module in model.modules()
            if isinstance(module, _BatchNorm) and module.training and module.running_mean is not None
        ]
        self._rows = 0

    @contextmanager
    def gathered(self) -> Iterator[Chunk]:
        """Around the forward pass of a chunk, which sets its ``rows``; the running statistics stay."""
        chunk = Chunk()
        for norm in self._norms:
            norm.open()
        try:
            yield chunk
        finally:
            for norm in self._norms:
                norm.close(chunk.rows)
        self._rows += chunk.rows

    def update(self, summed: Callable[[Tensor], Tensor] | None = None) -> None:
        """Move the running statistics by what was gathered.

        Args:
            summed: from sums of this rank, a vector, to those over all ranks; None: there are no others.
        """
        if not self._norms:
            return
        device = self._norms[0].sums.device
        sums = torch.cat([torch.tensor([self._rows], dtype=torch.float64, device=device)] + [
            norm.sums for norm in self._norms
        ])  # fmt: skip
        if summed is not None:
            sums = summed(sums)
        rows, sums = sums[0], sums[1:]
        sizes = [norm.sums.numel() for norm in self._norms]
        for norm, part in zip(self._norms, sums.split(sizes), strict=True):
            norm.update(part / rows.clamp_min(1), rows > 0)


class _Norm:
    """One BatchNorm, and the sums of what its chunks had."""

    def __init__(self, module: _BatchNorm) -> None:
        mean, variance = module.running_mean, module.running_var
        assert mean is not None
        assert variance is not None
        self.module, self.mean, self.variance = module, mean, variance
        self.momentum, self.batches = module.momentum, module.num_batches_tracked
        self.sums = torch.zeros(2 * mean.numel(), dtype=torch.float64, device=mean.device)

    def open(self) -> None:
        """Put other tensors in place of the running statistics: they become those of the next batch alone.

        Others, since a graph that is still to be run backward keeps what it saw.
        """
        module = self.module
        module.momentum = 1.0
        module.running_mean, module.running_var = self.mean.clone(), self.variance.clone()
        module.num_batches_tracked = None if self.batches is None else self.batches.clone()

    @torch.no_grad()
    def close(self, rows: int) -> None:
        module = self.module
        assert module.running_mean is not None
        assert module.running_var is not None
        self.sums += torch.cat([module.running_mean, module.running_var]).double() * rows
        module.momentum, module.num_batches_tracked = self.momentum, self.batches
        module.running_mean, module.running_var = self.mean, self.variance

    @torch.no_grad()
    def update(self, found: Tensor, any_rows: Tensor) -> None:
        """``found`` [2 C]: mean and variance of the batch; without any row nothing changes."""
        if self.batches is not None:
            self.batches += any_rows
        step: Tensor | float | None = self.momentum
        if step is None:
            assert self.batches is not None
            step = 1 / self.batches.clamp_min(1)
        mean, variance = found.split(self.mean.numel())
        for running, new in ((self.mean, mean), (self.variance, variance)):
            moved = running + step * (new.to(running.dtype) - running)
            running.copy_(torch.where(any_rows, moved, running))
