"""What the losses share that are a softmax over centres of classes."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdml.backends.dtypes import accumulator
from fastdml.engines.proxy import combined, proxy_statistics
from fastdml.errors import InputError
from fastdml.losses.centered import CenteredLoss
from fastdml.losses.centers import CLASSES_TOGETHER
from fastdml.losses.element_weights import element_weights
from fastdml.rules import Centres, ProxyRule, ProxyStatistics, RowLosses


def without_autocast(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Keeps autocast from what a method of a loss computes, as it is kept from the losses."""

    @functools.wraps(method)
    def run(self: CenteredLoss, *args: Any) -> Tensor:
        with torch.autocast(self.centers.device.type, enabled=False):
            return method(self, *args)

    return run


class ProxyLoss(CenteredLoss):
    """A softmax over classes of the similarities of samples to learnt centres, in memory linear in both.

    Args:
        num_classes: C; labels lie in [0, C).
        embedding_size: D.
        label_smoothing: share of every label that is spread evenly over all classes, in [0, 1].
        options: those of :class:`~fastdml.losses.centered.CenteredLoss`.

    Raises:
        InputError: an argument that is not accepted.
    """

    accepts: ClassVar[tuple[str, ...]] = ("inner",)

    accepts_unnormalised: ClassVar[bool] = True
    """Whether the loss is defined where embeddings are not scaled to length one."""
    mines_anchors: ClassVar[bool] = False
    """Whether only anchors count of what a miner lists."""

    def __init__(
        self, num_classes: int, embedding_size: int, *, label_smoothing: float = 0.0, **options: Any
    ) -> None:
        super().__init__(num_classes, embedding_size, **options)
        if not 0 <= label_smoothing <= 1:
            raise InputError(f"label_smoothing must be between 0 and 1, got {label_smoothing!r}")
        if not (self.closeness.normalised or self.accepts_unnormalised):
            raise InputError(f"distance of {type(self).__name__} must be CosineSimilarity()")
        self.label_smoothing = label_smoothing

    @abstractmethod
    def rule(self) -> ProxyRule:
        """What a sample's sums are worth."""

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: Any = None,
        ref_emb: None = None,
        ref_labels: None = None,
        *,
        weights: Tensor | None = None,
    ) -> Any:
        """The loss of a batch.

        Args:
            embeddings: [B, D], float32, bfloat16, float16 or float64.
            labels: [B], of any integer dtype, in [0, C); or [B, C] of a floating dtype: of every sample a
                distribution over the classes, where the loss has no margin.
            indices_tuple: what a miner returned: a sample counts by how often it is in there, relative to
                the one that is there most often.
            ref_emb: None; samples are compared with centres only.
            ref_labels: None.
            weights: [B], what the loss of each sample is multiplied with before it is reduced.

        Returns:
            A scalar; [B] for reducer "none", 0 for a sample that is ignored; or what a reducer of another
            making returns.

        Raises:
            InputError: an argument of the wrong shape, dtype, device or range. On a GPU, which is not waited
                for, and under torch.compile a label out of range makes its sample's loss NaN instead.
            BackendError: the backend that was asked for cannot run here.
        """
        self.check_without_references(ref_emb, ref_labels)
        self.check_embeddings(embeddings)
        soft = isinstance(labels, Tensor) and labels.is_floating_point()
        labels = self.checked_shares(labels, embeddings) if soft else self.checked_labels(labels, embeddings)
        factors = element_weights(indices_tuple, embeddings, weights, self.mines_anchors)
        kept = None
        if self.ignore_index is not None and not soft:
            kept = labels != self.ignore_index
            labels = torch.where(kept, labels, -1)
        rows, lengths = self.compared(embeddings)
        statistics = self.gather(rows, labels, embeddings.dtype)
        losses = self.sample_losses(statistics, labels, lengths)
        if kept is not None:
            losses = torch.where(kept, losses, 0)
        losses = losses if factors is None else losses * factors.to(losses.dtype)
        classes = labels.argmax(dim=1) if soft else labels.clamp(0, self.num_classes - 1)
        return self.finished(
            {"loss": RowLosses(losses, None if kept is None else kept.to(losses.dtype))},
            embeddings, classes, classes, self.regularisation(statistics),
        )  # fmt: skip

    def compared(self, embeddings: Tensor) -> tuple[Tensor, Tensor | None]:
        """The embeddings as they are compared, [B, D], and their lengths [B] where the rule reads them."""
        rows = embeddings.to(accumulator(embeddings.dtype))
        if self.rule().keeps_lengths:
            return rows, rows.norm(dim=1)
        return (F.normalize(rows, dim=1) if self.closeness.normalised else rows), None

    def stored_centers(self) -> Tensor:
        """The centres that samples are compared with, laid out as the parameter is."""
        return self.centers

    def how(self, per_class: int) -> Centres:
        """How classes of that many centres are compared."""
        normalised = self.closeness.normalised or self.normalises_centers
        return Centres(per_class, self.rule().gamma, self.columns, normalised)

    def gather(self, rows: Tensor, labels: Tensor, product: torch.dtype) -> ProxyStatistics:
        """The statistics of samples as they are compared, from all centres that are here.

        Args:
            rows: [B, D].
            labels: [B] int64, -1 for a sample of a class that is not here; or [B, C], distributions.
            product: what products may be made in.
        """
        layout, parts, shares = self.layout, [], None
        sizes = [bucket.centers for bucket in layout.buckets]
        if labels.is_floating_point():
            shares = labels[:, layout.on("order", labels.device)] if len(sizes) > 1 else labels
            places = labels.new_full((len(rows),), -1, dtype=torch.int64)
        else:
            places = layout.label_places(labels)
        stored: Sequence[Tensor] = (self.stored_centers(),)
        if len(sizes) > 1:  # the gradient of a split is a copy
            stored = stored[0].split(sizes, int(self.columns))
        for bucket, centers in zip(layout.buckets, stored, strict=True):
            first, end = bucket.first_class, bucket.first_class + bucket.classes
            here = (places >= first) & (places < end)
            parts.append(
                proxy_statistics(
                    rows,
                    centers,
                    torch.where(here, places - first, -1),
                    self.how(bucket.per_class),
                    scale=self.rule().scale,
                    shares=None if shares is None else shares[:, first:end],
                    spread=self.wants_spread and bucket.per_class > 1,
                    product=product,
                )
            )
        return combined(parts)

    @property
    def wants_spread(self) -> bool:
        """Whether the distances between the centres of a class are gathered too."""
        return False

    def sample_losses(self, statistics: ProxyStatistics, labels: Tensor, lengths: Tensor | None) -> Tensor:
        """[B], the loss of every sample; NaN where its label is none of the classes."""
        rule = self.rule()
        if labels.is_floating_point():
            return rule.soft_value(statistics, labels.sum(dim=1))
        losses = rule.value(statistics, self.num_classes, self.label_smoothing, lengths)
        known = (labels >= 0) & (labels < self.num_classes)
        return torch.where(known, losses, torch.full_like(losses, torch.nan))

    def regularisation(self, statistics: ProxyStatistics) -> Tensor | None:
        """What is added once to the reduced losses."""
        del statistics
        return self.weight_regularisation()

    def get_logits(self, embeddings: Tensor) -> Tensor:
        """[B, C]: what the loss takes the softmax of, before any margin. Differentiable by autograd."""
        return self.rule().scale * self.class_similarities(embeddings)

    @without_autocast
    def class_similarities(self, embeddings: Tensor) -> Tensor:
        """[B, C]: the similarity of every sample to every class, in plain PyTorch."""
        self.check_embeddings(embeddings)
        rows, _ = self.compared(embeddings)
        stored = self.stored_centers().T if self.columns else self.stored_centers()
        found = []
        for bucket in self.layout.buckets:
            how = self.how(bucket.per_class)
            step = max(1, CLASSES_TOGETHER // max(1, len(rows) * bucket.per_class))
            for first in range(0, bucket.classes, step):
                count = min(step, bucket.classes - first) * bucket.per_class
                centers = stored.narrow(0, bucket.first_center + first * bucket.per_class, count)
                centers = centers.to(rows.dtype)
                centers = F.normalize(centers, dim=1) if how.normalised else centers
                found.append(how.pooled((rows @ centers.T).unflatten(1, (-1, bucket.per_class))))
        similarities = torch.cat(found, dim=1)
        if len(self.layout.buckets) == 1:
            return similarities
        return similarities[:, self.layout.on("place", similarities.device)]

    def checked_shares(self, labels: Tensor, embeddings: Tensor) -> Tensor:
        """Soft labels as distributions of the accumulator dtype."""
        if not self.rule().linear:
            raise InputError(f"labels must be integers for {type(self).__name__}, whose target has a margin")
        if self.label_smoothing:
            raise InputError("labels must be integers where label_smoothing spreads them")
        wanted = [len(embeddings), self.num_classes]
        if list(labels.shape) != wanted:
            raise InputError(f"soft labels must have shape {wanted}, got {list(labels.shape)}")
        if labels.device != embeddings.device:
            raise InputError(f"labels must be on {embeddings.device} like embeddings, got {labels.device}")
        return labels.detach().to(accumulator(embeddings.dtype))
