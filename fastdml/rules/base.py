"""What the pair engine asks of a rule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor


class PairRule(ABC):
    """A pair loss, stated once in PyTorch terms; its twins in Triton and C++ bear the same name.

    The kernels see a rule as its ``name`` and a flat list of ``constants``. They compute, for every anchor,
    the statistics that the rule's twin asks for, and multiply its pair weights with the candidates
    (General Pair Weighting, arXiv 1904.06627).
    """

    name: ClassVar[str]
    """Name shared with ``triton_kernels/rules/<name>.py`` and ``csrc/rules/<name>.h``."""

    @abstractmethod
    def dense(self, similarity: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Loss of every anchor from a dense similarity matrix; autograd differentiates it.

        Args:
            similarity: [N, M], floating point.
            positive: [N, M], bool: the candidates that share the anchor's label, the anchor itself left out.
            negative: [N, M], bool: the candidates with another label.

        Returns:
            [N], the dtype of ``similarity``.
        """

    @abstractmethod
    def constants(self) -> list[float]:
        """Numbers that the kernels read, in the order that the rule's twins document."""

    def unsupported(self, backend: str, dtype: torch.dtype) -> str | None:
        """Why ``backend`` cannot compute this rule for ``dtype``, or None where it can."""
        del backend, dtype
        return None
