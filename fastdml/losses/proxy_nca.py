"""Proxy-NCA loss (Movshovitz-Attias et al., ICCV 2017, arXiv 1703.07464)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from fastdml.distances import LpDistance
from fastdml.errors import InputError
from fastdml.losses.proxy import ProxyLoss
from fastdml.rules import Centres, ProxyNCA, ProxyStatistics
from fastdml.rules.proxy import positive


class ProxyNCALoss(ProxyLoss):
    """Softmax over classes of the negative squared distances of samples to one proxy a class.

    Movshovitz-Attias et al., ICCV 2017, arXiv 1703.07464. Defaults, values and parameters are those of
    pytorch-metric-learning 2.9, except that it leaves out samples whose probability underflows to 0.

    Args:
        num_classes: C; labels lie in [0, C), or are distributions [B, C].
        embedding_size: D.
        softmax_scale: what the negative squared distances are multiplied with; positive.
        form: "pml", over all proxies; or "paper", which leaves the target's out of the denominator, so that
            a loss may be negative.
        options: ``label_smoothing`` of :class:`~fastdml.losses.proxy.ProxyLoss`, and those of
            :class:`~fastdml.losses.centered.CenteredLoss`.

    The preset "paper" has that form and compares vectors of length 3: nine times the squared distances of
    unit vectors.
    """

    default_distance = LpDistance(power=2)
    accepts = ("inner", "squared")
    parameter_name = "proxies"
    columns = False
    mines_anchors = True
    presets: ClassVar = {"pml": {}, "paper": {"form": "paper", "softmax_scale": 9.0}}

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        softmax_scale: float = 1,
        form: str = "pml",
        **options: Any,
    ) -> None:
        super().__init__(num_classes, embedding_size, **options)
        if form not in ("pml", "paper"):
            raise InputError(f"form must be 'pml' or 'paper', got {form!r}")
        if form == "paper" and self.label_smoothing:
            raise InputError("label_smoothing must be 0 for form 'paper'")
        if form == "paper" and num_classes == 1:
            raise InputError("num_classes must be at least 2 for form 'paper', got 1")
        positive("softmax_scale", softmax_scale)
        self.softmax_scale, self.form = softmax_scale, form

    @property
    def _by_lengths(self) -> bool:
        """Whether the lengths of samples and proxies move their distances."""
        return self.closeness.kind == "squared" and not self.closeness.normalised

    def rule(self) -> ProxyNCA:
        # of unit vectors -|x - w|^2 is 2 <x, w> - 2, and what all classes share falls out of the softmax
        twice = 2.0 if self.closeness.kind == "squared" and self.closeness.normalised else 1.0
        return ProxyNCA(twice * self.softmax_scale, self.form == "paper")

    def compared(self, embeddings: Tensor) -> tuple[Tensor, Tensor | None]:
        rows, lengths = super().compared(embeddings)
        if self._by_lengths:
            # -|x - w|^2 is <(2 x, 1), (w, -|w|^2)> less |x|^2, which all classes share
            rows = torch.cat([2 * rows, rows.new_ones(len(rows), 1)], dim=1)
        return rows, lengths

    def stored_centers(self) -> Tensor:
        stored = super().stored_centers()
        if self._by_lengths:
            stored = stored.to(torch.promote_types(stored.dtype, torch.float32))
            stored = torch.cat([stored, -(stored * stored).sum(dim=1, keepdim=True)], dim=1)
        return stored

    def gather(self, rows: Tensor, labels: Tensor, product: torch.dtype) -> ProxyStatistics:
        # a squared length among the coordinates would be rounded to 16 bits
        return super().gather(rows, labels, rows.dtype if self._by_lengths else product)

    def how(self, per_class: int) -> Centres:
        return Centres(per_class, 0.0, self.columns, self.closeness.normalised)

    def get_logits(self, embeddings: Tensor) -> Tensor:
        """[B, C]: the distances to the proxies, as in pytorch-metric-learning."""
        similarities = self.class_similarities(embeddings)
        if self.closeness.kind == "inner":
            return similarities
        if self.closeness.normalised:
            return 2 - 2 * similarities
        rows = embeddings.to(similarities.dtype)
        return (rows * rows).sum(dim=1, keepdim=True) - similarities
