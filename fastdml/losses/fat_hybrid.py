"""Hybrid FAT: the triplet bound and the cross-entropy of a classifier on the same embeddings."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdml.backends.dtypes import accumulator
from fastdml.engines.proxy import proxy_statistics
from fastdml.errors import InputError
from fastdml.losses.fat import FastApproximatedTripletLoss, finite
from fastdml.losses.metric_loss import SingleLosses
from fastdml.rules import Centres, RowLosses
from fastdml.soft_labels import SoftLabels


class HybridFATLoss(FastApproximatedTripletLoss):
    """FAT plus the cross-entropy of a linear classifier, ``logits = embeddings @ classifier.weight.T``.

    The cross-entropy takes soft labels as FAT does, of all samples, and embeddings at their own lengths; it
    holds no logits [B, C]. Yuan et al., CVPRW 2020, arXiv 1912.07863.

    Args:
        num_classes: C; labels lie in [0, C).
        embedding_size: D.
        classifier_weight: what the mean cross-entropy is multiplied with.
        fat: arguments of :class:`FastApproximatedTripletLoss`.

    Raises:
        InputError: an argument that is not accepted.

    Attributes:
        classifier: ``nn.Linear(D, C, bias=False)``, a parameter to train with the network.
    """

    loss_names = ("loss", "radius", "cross_entropy")
    presets: ClassVar = FastApproximatedTripletLoss.presets

    def __init__(
        self, num_classes: int, embedding_size: int, *, classifier_weight: float = 1.0, **fat: Any
    ) -> None:
        super().__init__(**fat)
        for name, value in (("num_classes", num_classes), ("embedding_size", embedding_size)):
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be a positive integer, got {value!r}")
        if self.bank is not None and self.bank.num_classes != num_classes:
            raise InputError(f"bank must be one of {num_classes} classes, got {self.bank.num_classes}")
        self.num_classes, self.embedding_size = num_classes, embedding_size
        self.classifier_weight = finite("classifier_weight", classifier_weight)
        self.classifier = nn.Linear(embedding_size, num_classes, bias=False)

    def losses(
        self, embeddings: Tensor, labels: Tensor, soft: SoftLabels | None, trusted: Tensor | None
    ) -> dict[str, RowLosses]:
        found = super().losses(embeddings, labels, soft, trusted)
        return {**found, "cross_entropy": RowLosses(self._cross_entropy(embeddings, labels, soft))}

    def singles(self, losses: dict[str, RowLosses]) -> dict[str, SingleLosses]:
        entropies = losses["cross_entropy"].total
        every = (torch.arange(len(entropies), device=entropies.device),)
        return {**super().singles(losses), "cross_entropy": SingleLosses(entropies, every, "element")}

    def get_logits(self, embeddings: Tensor) -> Tensor:
        """[B, C], of the classifier."""
        logits: Tensor = self.classifier(embeddings)
        return logits

    def _cross_entropy(self, embeddings: Tensor, labels: Tensor, soft: SoftLabels | None) -> Tensor:
        """[B], multiplied with its weight."""
        weight = self.classifier.weight
        rows = embeddings.to(accumulator(embeddings.dtype))
        if rows.shape[1] != self.embedding_size:
            raise InputError(f"embeddings must have shape [B, {self.embedding_size}], got {list(rows.shape)}")
        named = labels if soft is None else soft.classes
        if named.is_cpu and named.numel():
            wrong = (named >= self.num_classes) | (named < (0 if soft is None else -1))
            if bool(wrong.any()):
                raise InputError(f"labels must be in [0, {self.num_classes}), got {int(named[wrong][0])}")
        known = torch.full_like(labels, -1) if soft is not None else labels
        statistics = proxy_statistics(
            rows, weight, known, Centres(normalised=False), product=embeddings.dtype
        )
        if soft is None:
            return self.classifier_weight * F.softplus(statistics.others - statistics.target, threshold=80)
        shares = torch.where(soft.classes >= 0, soft.shares, 0).to(rows.dtype)
        # the mean centre of a sample's classes stands for its target, without one centre copied a share
        target = F.embedding_bag(
            soft.classes.clamp_min(0), weight.to(rows.dtype), per_sample_weights=shares, mode="sum"
        )
        logits = (rows * target).sum(dim=1)
        return self.classifier_weight * (shares.sum(dim=1) * statistics.others - logits)
