"""ArcFace (CVPR 2019, arXiv 1801.07698) and sub-centre ArcFace (ECCV 2020) losses."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdml.losses.centered import checked_size
from fastdml.losses.proxy import ProxyLoss
from fastdml.rules import ArcFace


class ArcFaceLoss(ProxyLoss):
    """Softmax of scaled cosines, the target's angle widened by a margin.

    Deng et al., CVPR 2019, arXiv 1801.07698. Where the widened angle would pass 180 degrees,
    ``cos theta - m sin m`` stands for its cosine. Defaults, values and parameters are those of
    pytorch-metric-learning 2.9; the gradient is finite at 0 and 180 degrees too.

    Args:
        num_classes: C; labels lie in [0, C).
        embedding_size: D.
        margin: in degrees, from 0 to 180.
        scale: of the cosines, positive.
        options: ``label_smoothing`` of :class:`~fastdml.losses.proxy.ProxyLoss`, and those of
            :class:`~fastdml.losses.centered.CenteredLoss`.
    """

    accepts_unnormalised = False

    def __init__(
        self, num_classes: int, embedding_size: int, margin: float = 28.6, scale: float = 64, **options: Any
    ) -> None:
        super().__init__(num_classes, embedding_size, **options)
        self.margin, self.scale = margin, scale
        self.rule()  # raises on values that no rule accepts

    def rule(self) -> ArcFace:
        return ArcFace(math.radians(self.margin), self.scale)


class SubCenterArcFaceLoss(ArcFaceLoss):
    """ArcFace with several centres a class, of which the closest counts.

    Deng et al., "Sub-center ArcFace", ECCV 2020. Surplus centres gather the noisy samples of a class, which
    :meth:`get_outliers` then tells. Defaults, values and parameters are those of pytorch-metric-learning
    2.9.

    Args:
        num_classes: C; labels lie in [0, C).
        embedding_size: D.
        margin: in degrees, from 0 to 180.
        scale: of the cosines, positive.
        sub_centers: K, centres of a class.
        options: as in :class:`ArcFaceLoss`.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float = 28.6,
        scale: float = 64,
        sub_centers: int = 3,
        **options: Any,
    ) -> None:
        sub_centers = checked_size("sub_centers", sub_centers)
        super().__init__(num_classes, embedding_size, margin, scale, centers_per_class=sub_centers, **options)

    @property
    def sub_centers(self) -> int:
        """K, the most centres that a class has."""
        return self.centers_per_class

    @torch.no_grad()
    def get_outliers(
        self, embeddings: Tensor, labels: Tensor, threshold: float = 75, return_dominant_centers: bool = True
    ) -> tuple[Tensor, Tensor]:
        """The samples that lie far from the centre that most samples of their class are closest to.

        Args:
            embeddings: [B, D].
            labels: [B].
            threshold: in degrees, how far a sample may lie from its class's dominant centre.
            return_dominant_centers: has no effect, as in pytorch-metric-learning; both are returned.

        Returns:
            The indices of the outliers, by class and then as given, and the dominant centres [D, C], zeros
            for a class without a sample.
        """
        del return_dominant_centers
        self.check_embeddings(embeddings)
        labels = self.checked_labels(labels, embeddings)
        dominant = self.centers.new_zeros(self.embedding_size, self.num_classes)
        outliers = [labels.new_empty(0)]
        for label in labels.unique().tolist():
            if label == self.ignore_index:
                continue
            samples = (labels == label).nonzero().flatten()
            centers = self.centers_of(label)
            cosines = F.normalize(embeddings[samples].to(centers.dtype)) @ F.normalize(centers).T
            most = int(cosines.argmax(dim=1).bincount().argmax())
            dominant[:, label] = centers[most]
            outliers.append(samples[cosines[:, most] < math.cos(math.radians(threshold))])
        return torch.cat(outliers), dominant
