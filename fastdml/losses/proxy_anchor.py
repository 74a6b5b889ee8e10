"""Proxy-Anchor loss (CVPR 2020, arXiv 2003.13911)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastdml.backends.reference import pair_closeness
from fastdml.engines.pair import pair_losses
from fastdml.errors import InputError
from fastdml.losses.centered import CenteredLoss
from fastdml.losses.element_weights import element_weights
from fastdml.reducers import DivisorReducer
from fastdml.rules import ProxyAnchor, RowLosses

PAIRS_TOGETHER = 1 << 20
"""Pairs of proxies and weighted samples that are compared at a time."""


class ProxyAnchorLoss(CenteredLoss):
    """Every proxy pulls the samples of its class and pushes those of others, each by how hard it is.

    ``1/|P+| sum_{p of P+} log(1 + sum_{x of p} e^{-alpha (S - margin)})``, P+ the proxies with a sample in
    the batch, and ``1/C sum_p log(1 + sum_{x not of p} e^{alpha (S + margin)})``. Kim et al., CVPR 2020,
    arXiv 2003.13911. Defaults, values and parameters are those of pytorch-metric-learning 2.9. It runs on the
    pair engine, the proxies as its anchors and the samples as their candidates.

    Args:
        num_classes: C; labels lie in [0, C).
        embedding_size: D.
        margin: a similarity (or distance).
        alpha: sharpness, positive.
        options: those of :class:`~fastdml.losses.centered.CenteredLoss`.
    """

    accepts = ("inner", "euclidean", "squared")
    default_reducer = DivisorReducer
    parameter_name = "proxies"
    columns = False

    def __init__(
        self, num_classes: int, embedding_size: int, margin: float = 0.1, alpha: float = 32, **options: Any
    ) -> None:
        if options.get("centers_per_class", 1) != 1:
            raise InputError(
                f"centers_per_class must be 1 for ProxyAnchorLoss, got {options['centers_per_class']!r}"
            )
        super().__init__(num_classes, embedding_size, **options)
        self.margin, self.alpha = margin, alpha
        self.rule()  # raises on values that no rule accepts

    def initialise(self, centers: Tensor) -> None:
        nn.init.kaiming_normal_(centers, mode="fan_out")

    def rule(self) -> ProxyAnchor:
        return ProxyAnchor(self.alpha, self.margin)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: Any = None,
        ref_emb: None = None,
        ref_labels: None = None,
    ) -> Any:
        """The loss of a batch.

        Args:
            embeddings: [B, D], float32, bfloat16, float16 or float64.
            labels: [B], of any integer dtype, in [0, C).
            indices_tuple: what a miner returned: the exponents of a sample are raised by its weight less 1,
                the weight being how often it is in there, relative to the one that is there most often.
            ref_emb: None; samples are compared with proxies only.
            ref_labels: None.

        Returns:
            A scalar; the losses of the proxies [C] for reducer "none"; or what a reducer of another making
            returns.

        Raises:
            InputError: an argument of the wrong shape, dtype, device or range. On a GPU, which is not waited
                for, and under torch.compile a label out of range makes the losses NaN instead.
            BackendError: the backend that was asked for cannot run here.
        """
        self.check_without_references(ref_emb, ref_labels)
        self.check_embeddings(embeddings)
        labels = self.checked_labels(labels, embeddings)
        factors = element_weights(indices_tuple, embeddings, None)
        if self.ignore_index is not None:
            kept = labels != self.ignore_index
            embeddings, labels = embeddings[kept], labels[kept]
            factors = None if factors is None else factors[kept]
        losses = self.proxy_losses(embeddings, labels, factors)
        known = ((labels >= 0) & (labels < self.num_classes)).all()
        unknown = torch.where(known, 0.0, torch.nan)
        losses = {name: replace(one, total=one.total + unknown.to(one.total)) for name, one in losses.items()}
        classes = torch.arange(self.num_classes, device=labels.device)
        return self.finished(losses, embeddings, labels, classes, self.weight_regularisation())

    def proxy_losses(
        self, embeddings: Tensor, labels: Tensor, factors: Tensor | None = None
    ) -> dict[str, RowLosses]:
        """ "pos_loss" and "neg_loss" of every proxy, [C] each; ``factors`` [B] weigh the samples."""
        proxies = self.centers
        classes = torch.arange(len(proxies), device=labels.device)
        if factors is None:
            # the engine compares rows of one dtype; neither the parameter nor its gradient is cast
            dtype = torch.promote_types(embeddings.dtype, proxies.dtype)
            return pair_losses(
                self.rule(),
                proxies.to(dtype),
                classes,
                embeddings.to(dtype),
                labels,
                closeness=self.closeness,
            )
        step = max(1, PAIRS_TOGETHER // max(1, len(embeddings)))
        parts = [
            checkpoint(
                self._weighted, proxies[at : at + step], classes[at : at + step], embeddings, labels, factors,
                use_reentrant=False,
            )
            for at in range(0, len(proxies), step)
        ]  # fmt: skip
        pull, push = (torch.cat(sides) for sides in zip(*parts, strict=True))
        present = torch.bincount(labels, minlength=len(proxies))[: len(proxies)] > 0
        return {
            "pos_loss": RowLosses(pull, divisor=present.sum()),
            "neg_loss": RowLosses(push, divisor=torch.full_like(present.sum(), len(proxies))),
        }

    def _weighted(
        self, proxies: Tensor, classes: Tensor, embeddings: Tensor, labels: Tensor, factors: Tensor
    ) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(torch.promote_types(embeddings.dtype, proxies.dtype), torch.float32)
        c = pair_closeness(self.closeness, proxies.to(dtype), embeddings.to(dtype))
        margin = self.closeness.sign * self.margin
        raised = (factors - 1).to(dtype)[None, :]
        own = classes[:, None] == labels[None, :]
        pull = (-self.alpha * (c - margin) + raised).masked_fill(~own, -torch.inf)
        push = (self.alpha * (c + margin) + raised).masked_fill(own, -torch.inf)
        return F.softplus(pull.logsumexp(dim=1)), F.softplus(push.logsumexp(dim=1))

    def get_logits(self, embeddings: Tensor) -> Tensor:
        """[B, C]: similarities, or distances, to the proxies, as in pytorch-metric-learning."""
        self.check_embeddings(embeddings)
        dtype = torch.promote_types(embeddings.dtype, self.centers.dtype)
        found = pair_closeness(self.closeness, embeddings.to(dtype), self.centers.to(dtype))
        return found * self.closeness.sign
