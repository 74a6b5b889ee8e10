"""Clustering loss (Song et al., CVPR 2017, arXiv 1612.01213)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdml.backends.dtypes import accumulator
from fastdml.errors import InputError
from fastdml.functional import check_labels, check_rows
from fastdml.losses.medoids import MedoidSearch, class_medoids, normalised_mutual_information
from fastdml.losses.metric_loss import MetricLoss, SingleLosses
from fastdml.rules import RowLosses


class ClusteringLoss(MetricLoss):
    """By how much a clustering that is unlike the classes fits the batch better than the classes do.

    ``[max_A { F(A) + gamma (1 - NMI(A, y)) } - F~]_+``, where A is a set of as many samples of the batch,
    the medoids, as it has classes; ``F(A) = -sum_i min_{m in A} |x_i - x_m|``; NMI compares the classes with
    the clusters of A, normalised by the arithmetic mean of the entropies; and F~ is the sum over the classes
    of F of their best medoid. Song, Jegelka, Rathod and Murphy, "Deep Metric Learning via Facility Location",
    CVPR 2017, arXiv 1612.01213. Rows are scaled to length one, as its authors' code asks for.

    The maximum is searched for, without gradient: medoids are added one by one, each the best there is, and
    are then swapped within their clusters. What is found may be less than the maximum, never more; the search
    holds [B, B] matrices and takes O(C B^3) for C classes. The gradient goes through the 2 B distances to the
    medoids that were found and to those of the classes.

    Args:
        gamma: the margin: the summed distance by which the classes must fit better than a clustering that
            shares no information with them. F sums over the batch, so the same gamma asks less of every
            sample the larger the batch is. Finite, not negative.
        swaps: most rounds of swaps, 0 for the greedy medoids; they end once no swap is better.
        options: ``distance``, ``reducer``, ``embedding_regularizer`` and ``embedding_reg_weight`` of
            :class:`~fastdml.losses.metric_loss.MetricLoss`. The distance is ``LpDistance()``, or
            ``LpDistance(normalize_embeddings=False)`` for embeddings as they are. The loss is one number of
            the batch, which no reducer changes; reducer "none" is refused.

    Raises:
        InputError: an argument that is not accepted.
    """

    accepts = ("euclidean",)
    presets: ClassVar = {"paper": {}}

    def __init__(self, gamma: float = 1.0, swaps: int = 5, **options: Any) -> None:
        super().__init__(**options)
        if not (math.isfinite(gamma) and gamma >= 0):
            raise InputError(f"gamma must be a finite number that is not negative, got {gamma!r}")
        if isinstance(swaps, bool) or not isinstance(swaps, int) or swaps < 0:
            raise InputError(f"swaps must be an integer that is not negative, got {swaps!r}")
        if self.returns_rows:
            raise InputError(
                "reducer must not be 'none' for ClusteringLoss, whose loss is one number of the batch"
            )
        self.gamma, self.swaps = gamma, swaps

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: None = None,
        ref_emb: None = None,
        ref_labels: None = None,
    ) -> Any:
        """The loss of a batch.

        Args:
            embeddings: [B, D], float32, bfloat16, float16 or float64; halves are computed with in float32.
            labels: [B], any integer dtype, on the device of the embeddings.
            indices_tuple: None; a clustering has no pairs to choose from.
            ref_emb: None; samples are compared within the batch only.
            ref_labels: None.

        Returns:
            A scalar, float64 for float64 embeddings and else float32, 0 for an empty batch; or what a reducer
            of another making returns.

        Raises:
            InputError: an argument of the wrong shape, dtype or device.
        """
        check_rows("embeddings", embeddings)
        labels = check_labels("labels", labels, "embeddings", embeddings)
        given = {"indices_tuple": indices_tuple, "ref_emb": ref_emb, "ref_labels": ref_labels}
        for name, value in given.items():
            if value is not None:
                raise InputError(f"{name} must be None for ClusteringLoss, got {type(value).__name__}")
        loss = self._loss(embeddings.to(accumulator(embeddings.dtype)), labels)
        if self.lists_losses:
            single = {"loss": SingleLosses(loss, (), "already_reduced")}
            return self.regularised(self.reduced_singly(single, embeddings, labels), embeddings)
        return self.regularised(
            self.reduced({"loss": RowLosses(loss, kind="already_reduced")}, labels), embeddings
        )

    def _loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        if len(embeddings) == 0:
            return embeddings.sum()
        rows = F.normalize(embeddings, dim=1) if self.closeness.normalised else embeddings
        found, true, nmi = self.medoids(rows.detach(), labels)
        apart = torch.linalg.vector_norm(rows - rows[true], dim=1).sum()
        closest = torch.linalg.vector_norm(rows - rows[found], dim=1).sum()
        return F.relu(apart - closest + self.gamma * (1 - nmi).to(rows.dtype))

    @torch.no_grad()
    def medoids(self, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The medoids that violate the classes most, and those of the classes.

        Args:
            rows: [B, D], as they are compared.
            labels: [B].

        Returns:
            Of every sample the nearest medoid that was found and the medoid of its class, [B] int64; and the
            NMI of the classes and the clusters of those that were found, a scalar of float64.
        """
        # differences, not products: what is equal is at distance 0
        distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
        search = MedoidSearch(distances, labels, self.gamma)
        chosen = search.swapped(search.greedy(len(labels.unique())), self.swaps)
        found = search.nearest(chosen)[1]
        return found, class_medoids(distances, labels), normalised_mutual_information(found, labels)
