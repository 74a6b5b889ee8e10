"""SoftTriple and HardTriple losses (ICCV 2019, arXiv 1909.05235)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor, nn

from fastdml.errors import InputError
from fastdml.losses.proxy import ProxyLoss
from fastdml.rules import ProxyStatistics, SoftTriple


class SoftTripleLoss(ProxyLoss):
    """Softmax over classes of a softmax over the centres of each class.

    ``-log e^{la (S_y - margin)} / (e^{la (S_y - margin)} + sum_{c != y} e^{la S_c})`` with
    ``S_c = sum_k softmax_k(s_ck / gamma) s_ck``, s_ck the cosine of a sample and the k-th centre of class c
    (Qian et al., ICCV 2019, arXiv 1909.05235). Defaults and values are those of pytorch-metric-learning 2.9,
    parameters are called and shaped as there; ``tau`` is the paper's regulariser, 0 by default as there.

    Args:
        num_classes: C; labels lie in [0, C).
        embedding_size: D.
        centers_per_class: K.
        la: scale of the similarities, positive.
        gamma: temperature of the softmax over the centres of a class, positive.
        margin: what the target's similarity is lowered by.
        tau: weight of ``sum_c sum_{t<s} sqrt(2 + 1e-5 - 2 <w_c^s, w_c^t>) / (C K (K - 1))``, which draws
            the surplus centres of a class together; unlike that of pytorch-metric-learning its gradient is
            finite where centres have merged.
        options: ``label_smoothing`` of :class:`~fastdml.losses.proxy.ProxyLoss`, and those of
            :class:`~fastdml.losses.centered.CenteredLoss`.

    The preset "paper" has tau 0.2; "many centres" K = 20 as well, which training reduces to a few that
    differ (:meth:`count_centers`).

    Example:
        >>> loss = SoftTripleLoss.preset("paper", num_classes=100, embedding_size=64)
        >>> loss(embeddings, labels).backward()
    """

    parameter_name = "fc"
    presets: ClassVar = {
        "pml": {},
        "paper": {"tau": 0.2},
        "many centres": {"tau": 0.2, "centers_per_class": 20},
    }

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        centers_per_class: int = 10,
        la: float = 20,
        gamma: float = 0.1,
        margin: float = 0.01,
        tau: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(num_classes, embedding_size, centers_per_class=centers_per_class, **options)
        self.la, self.gamma, self.margin, self.tau = la, gamma, margin, tau
        self._check_gamma()
        if not (math.isfinite(tau) and tau >= 0):
            raise InputError(f"tau must be a number from 0 on, got {tau!r}")
        if tau and not self.closeness.normalised:
            raise InputError("tau must be 0 where the distance does not scale centres to length one")
        if tau and self.returns_rows:
            raise InputError("reducer must be another than 'none' where tau adds a regulariser")
        self.rule()  # raises on values that no rule accepts

    def _check_gamma(self) -> None:
        if not (math.isfinite(self.gamma) and self.gamma > 0):
            raise InputError(f"gamma must be a positive, finite number, got {self.gamma!r}")

    def initialise(self, centers: Tensor) -> None:
        nn.init.kaiming_uniform_(centers, a=math.sqrt(5))

    def rule(self) -> SoftTriple:
        return SoftTriple(self.la, self.gamma, self.margin)

    @property
    def wants_spread(self) -> bool:
        return self.tau > 0

    def regularisation(self, statistics: ProxyStatistics) -> Tensor | None:
        found = super().regularisation(statistics)
        if not self.tau:
            return found
        several = [bucket for bucket in self.layout.buckets if bucket.per_class > 1]
        parts = statistics.spread.split([bucket.classes for bucket in several])
        total = statistics.spread.new_zeros(())
        for bucket, part in zip(several, parts, strict=True):
            total = total + part.sum() / (bucket.per_class * (bucket.per_class - 1))
        mean = total * (self.tau / self.num_classes)
        return mean if found is None else found + mean

    def get_logits(self, embeddings: Tensor) -> Tensor:
        """[B, C]: similarities to the classes, before scale and margin, as in pytorch-metric-learning."""
        return self.class_similarities(embeddings)


class HardTripleLoss(SoftTripleLoss):
    """SoftTriple in which the closest centre of a class stands for it: ``S_c = max_k s_ck``.

    Args:
        num_classes: C; labels lie in [0, C).
        embedding_size: D.
        centers_per_class: K.
        la: scale of the similarities, positive.
        margin: what the target's similarity is lowered by.
        tau: weight of the regulariser, as in :class:`SoftTripleLoss`.
        options: as in :class:`SoftTripleLoss`.
    """

    presets: ClassVar = {"paper": {"tau": 0.2}}

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        centers_per_class: int = 10,
        la: float = 20,
        margin: float = 0.01,
        tau: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(num_classes, embedding_size, centers_per_class, la, 0.0, margin, tau, **options)

    def _check_gamma(self) -> None:
        pass
