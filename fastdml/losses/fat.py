"""FAT, the fast approximated triplet loss (Yuan et al., CVPRW 2020, arXiv 1912.07863)."""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdml.backends.dtypes import accumulator
from fastdml.distances import LpDistance
from fastdml.engines.centroid import class_sums, hinge_sums, listed_distances, nearest_others
from fastdml.errors import InputError
from fastdml.functional import check_labels, check_rows
from fastdml.losses.centroid_bank import CentroidBank
from fastdml.losses.centroids import CentroidKind, Centroids, batch_centroids, count_members
from fastdml.losses.metric_loss import MetricLoss, SingleLosses
from fastdml.rules import RowLosses
from fastdml.soft_labels import SoftLabels, check_distributions, largest_shares

RADII = ("max", "mean")


class _Anchors(NamedTuple):
    """The samples of a batch and the centroids that each has to do with."""

    rows: Tensor
    """[B, D] as they are compared."""
    labels: Tensor
    """[B], int64: of each the class, or the likeliest one."""
    soft: SoftLabels | None
    own: Tensor
    """[B]: the centroid of that class; -1: it has none."""
    places: Tensor
    """[B, S]: the centroids of the classes that a sample may have; -1: none."""
    shares: Tensor
    """[B, S]: their shares, 1 in sum where a sample has any."""
    trusted: Tensor | None
    """[B], bool: the samples that form centroids; None: all."""
    product: torch.dtype
    """What a GPU may make products in."""


class FastApproximatedTripletLoss(MetricLoss):
    """``mean_a mean_{c != c_a} [d(a, c_a) - d(a, c) + margin]_+ + radius_weight R``, in linear memory.

    c_a is the centroid of the anchor's class, c run over those of other classes, d is the Euclidean distance
    of unit vectors (``distance=LpDistance(normalize_embeddings=False)``: of embeddings as they are) and R the
    mean over the classes of the radius of their members. By the triangle inequality this bounds the mean loss
    of all triplets where classes are of one size, the radius is "max" and its weight at least 2; smaller
    weights train by the same directions. Yuan et al., arXiv 1912.07863.

    A sample may have several classes with shares q: its distance to its own class is ``sum_c q_c d(a, c)``,
    and negatives are weighed by ``1 - q_c``. Classes without a centroid are left out of both, and the shares
    of the others scaled to a sum of 1; an anchor none of whose classes has a centroid, or that has no
    negative, is left out of the mean. ``hardest:k`` and ``batch:k`` never take the class of the largest share
    for a negative.

    Args:
        margin: None is 0.1 for unit vectors, 1 for embeddings as they are.
        centroids: how a class is averaged: "mean" of the embeddings, "mean_of_units" of their directions,
            "unit_of_mean" or "unit_of_mean_of_units", either scaled to length one. None is the last for unit
            vectors, "mean" for others. With a bank, its choice.
        radius: "max", the largest distance of a member to its centroid, or "mean".
        radius_weight: of R; None is 1 for unit vectors, 0.1 for others.
        negatives: "all" centroids of other classes; "hardest:k", the k nearest of them; "mean", the mean of
            their distances, which has one hinge; "batch:k", the k nearest samples of other classes.
        bank: centroids of the whole data set instead of those of the batch; constants to the gradient. In
            training mode it takes in what the loss sees.
        threshold: only samples of at least this confidence form centroids and count for the radius.
        options: ``distance``, ``reducer``, ``embedding_regularizer`` and ``embedding_reg_weight`` of
            :class:`~fastdml.losses.metric_loss.MetricLoss`. Reducer "none" gives the hinges, [B], without R.

    Raises:
        InputError: an argument that is not accepted.

    Presets: "paper" (the default, normalised), "paper plain", and "authors", the defaults of the authors'
    code: plain, the nearest sample as negative, mean radius.
    """

    accepts = ("euclidean",)
    default_distance = LpDistance()
    loss_names: ClassVar[tuple[str, ...]] = ("loss", "radius")
    takes_soft_labels: ClassVar[bool] = True
    presets: ClassVar = {
        "paper": {},
        "paper plain": {"distance": LpDistance(normalize_embeddings=False)},
        "authors": {
            "distance": LpDistance(normalize_embeddings=False),
            "negatives": "batch:1",
            "radius": "mean",
        },
    }

    def __init__(
        self,
        margin: float | None = None,
        *,
        centroids: str | None = None,
        radius: str = "max",
        radius_weight: float | None = None,
        negatives: str = "all",
        bank: CentroidBank | None = None,
        threshold: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        units = self.closeness.normalised
        self.margin = finite("margin", (0.1 if units else 1.0) if margin is None else margin)
        self.radius_weight = finite(
            "radius_weight", (1.0 if units else 0.1) if radius_weight is None else radius_weight
        )
        self.threshold = finite("threshold", threshold)
        if radius not in RADII:
            raise InputError(f"radius must be one of {', '.join(RADII)}, got {radius!r}")
        if bank is not None and centroids not in (None, bank.kind_name):
            raise InputError(f"centroids must be those of the bank, {bank.kind_name!r}, got {centroids!r}")
        self.centroids = centroids or ("unit_of_mean_of_units" if units else "mean")
        self.kind = CentroidKind.named(self.centroids) if bank is None else bank.kind
        self.radius, self.bank = radius, bank
        self.negatives, self._choice, self._count = negatives, *_choice(negatives)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | SoftLabels,
        indices_tuple: None = None,
        ref_emb: None = None,
        ref_labels: None = None,
        *,
        confidence: Tensor | None = None,
    ) -> Any:
        """The loss of a batch.

        Args:
            embeddings: [B, D], float32, bfloat16, float16 or float64.
            labels: [B], of any integer dtype; or soft: :class:`fastdml.SoftLabels`, or [B, C] of a floating
                dtype, each row a distribution over the classes 0 to C - 1.
            indices_tuple: None: samples are compared with centroids, not with what a miner lists.
            ref_emb: None.
            ref_labels: None.
            confidence: [B], how far each label is trusted, floating, or bool for 1 and 0; None is 1 for
                integer labels, the largest share for soft ones.

        Returns:
            A scalar; [B] for reducer "none"; or what a reducer of another making returns.

        Raises:
            InputError: an argument of the wrong shape, dtype, device or range, soft labels that do not sum to
                1, or a bank that holds nothing, or is stale.
            BackendError: the backend that was asked for cannot run here.
        """
        if indices_tuple is not None or ref_emb is not None or ref_labels is not None:
            raise InputError("indices_tuple, ref_emb and ref_labels must be None for FAT")
        check_rows("embeddings", embeddings)
        hard, soft = _checked_labels(labels, embeddings)
        trusted = self._trusted(confidence, soft, embeddings)
        with torch.autocast(embeddings.device.type, enabled=False):
            losses = self.losses(embeddings, hard, soft, trusted)
        return self.regularised(self._reduced(losses, embeddings, hard), embeddings)

    def losses(
        self, embeddings: Tensor, labels: Tensor, soft: SoftLabels | None, trusted: Tensor | None
    ) -> dict[str, RowLosses]:
        """The losses by name, of checked arguments."""
        rows = embeddings.to(accumulator(embeddings.dtype))
        units = F.normalize(rows, dim=1) if self.closeness.normalised or self.kind.of_units else rows
        if self.bank is not None:
            self.bank.check_fits(embeddings, labels)
            centroids = self.bank.served()
            centroids = centroids._replace(points=centroids.points.to(rows.dtype))
        else:
            averaged = units if self.kind.of_units else rows
            centroids = batch_centroids(averaged, labels, self.kind, trusted)
        compared = units
        if not self.closeness.normalised:  # distances are the same, and keep their digits
            middle = rows.detach().nan_to_num(0, 0, 0).mean(dim=0) if len(rows) else rows.new_zeros(())
            compared = rows - middle
            centroids = centroids._replace(points=centroids.points - middle)
        anchors = _anchors(compared, labels, soft, centroids, trusted, embeddings.dtype)
        found = self._hinges(anchors, centroids.points)
        if self.bank is not None and self.training:
            self.bank.count_use(len(rows))
            self.bank.update(embeddings, labels, trusted)
        return found

    def _hinges(self, anchors: _Anchors, points: Tensor) -> dict[str, RowLosses]:
        chosen = None
        if self._choice == "hardest":
            names = torch.arange(len(points), device=points.device)
            count = max(1, min(self._count, len(points)))
            chosen = nearest_others(anchors.rows, points, anchors.own, names, count, product=anchors.product)
        own = anchors.own[:, None]
        listed = [own, *([] if anchors.soft is None else [anchors.places])]
        distances = listed_distances(
            anchors.rows, points, torch.cat(listed if chosen is None else [*listed, chosen], dim=1)
        )
        soft_end = sum(part.shape[1] for part in listed)
        to_own, to_places, to_chosen = distances.tensor_split([1, soft_end], dim=1)
        positive = to_own.squeeze(1) if anchors.soft is None else (anchors.shares * to_places).sum(dim=1)
        if chosen is not None:
            push = _weights_of(chosen, anchors)
            losses, mass = self._mean_hinge(positive, to_chosen, push)
        elif self._choice == "batch":
            losses, mass = self._batch_hinge(anchors, positive)
        else:
            losses, mass = self._all_hinges(anchors, points, positive, to_own.squeeze(1), to_places)
        counts = (anchors.shares.sum(dim=1) > 0) & (mass > 0)
        losses = torch.where(counts, losses, 0)
        return {
            "loss": RowLosses(losses, counts.to(losses.dtype)),
            "radius": RowLosses(
                self.radius_weight * self._radius(anchors, to_own.squeeze(1), len(points)),
                kind="already_reduced",
            ),
        }

    def _mean_hinge(self, positive: Tensor, distances: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """[B]: the weighed mean of the hinges of listed negatives [B, k], and the sums of the weights."""
        hinges = F.relu(positive[:, None] - distances + self.margin)
        mass = weights.sum(dim=1)
        return (weights * hinges).sum(dim=1) / torch.where(mass > 0, mass, 1), mass

    def _batch_hinge(self, anchors: _Anchors, positive: Tensor) -> tuple[Tensor, Tensor]:
        rows, labels = anchors.rows, anchors.labels
        count = max(1, min(self._count, len(rows)))
        chosen = nearest_others(rows, rows, labels, labels, count, product=anchors.product)
        classes = labels[chosen.clamp_min(0)]
        weights = (chosen >= 0).to(rows.dtype)
        if anchors.soft is not None:
            shares = anchors.soft.shares.to(rows.dtype)
            weights = weights - weights * _shares_of(classes, anchors.soft.classes, shares)
        return self._mean_hinge(positive, listed_distances(rows, rows, chosen), weights)

    def _all_hinges(
        self, anchors: _Anchors, points: Tensor, positive: Tensor, to_own: Tensor, to_places: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Over all centroids but the own one in one sweep; what soft labels weigh otherwise is added."""
        rows, own = anchors.rows, anchors.own
        one_hinge = self._choice == "mean"
        if one_hinge:  # no distance exceeds the limit, so that each adds the limit less itself
            lengths = rows.detach().norm(dim=1), points.detach().norm(dim=1)
            limits = 1.001 * (lengths[0] + lengths[1].amax()) if len(points) else lengths[0]
        else:
            limits = positive + self.margin
        sums = hinge_sums(rows, points, own, limits, product=anchors.product)
        has_own = (own >= 0).to(rows.dtype)
        mass = len(points) - has_own
        if anchors.soft is not None:
            # the own class counts by 1 - q, any other that the sample may have by q less
            to_places = torch.where(anchors.places >= 0, F.relu(limits[:, None] - to_places), 0)
            sums = sums + has_own * F.relu(limits - to_own) - (anchors.shares * to_places).sum(dim=1)
            mass = mass + has_own - anchors.shares.sum(dim=1)
        mean = sums / mass.clamp_min(1e-6)
        # the mean of limit - d is the limit less the mean of d
        return (F.relu(positive - limits + mean + self.margin) if one_hinge else mean), mass

    def _radius(self, anchors: _Anchors, to_own: Tensor, classes: int) -> Tensor:
        """The mean over the classes that have members here of their radius; 0 where there are none."""
        own = anchors.own if anchors.trusted is None else torch.where(anchors.trusted, anchors.own, -1)
        counts = count_members(own, classes)
        if self.radius == "mean":
            radii = class_sums(to_own[:, None], own, classes).squeeze(1) / counts.clamp_min(1)
        else:
            spare = to_own.new_zeros(classes + 1)
            radii = spare.scatter_reduce(0, torch.where(own >= 0, own, classes), to_own, "amax")[:classes]
        return radii.sum() / (counts > 0).sum().clamp_min(1)

    def _trusted(
        self, confidence: Tensor | None, soft: SoftLabels | None, embeddings: Tensor
    ) -> Tensor | None:
        if confidence is None:
            return None if soft is None else soft.shares.amax(dim=1) >= self.threshold
        if confidence.dtype == torch.bool:
            confidence = confidence.to(torch.float32)
        if confidence.shape != embeddings.shape[:1] or not confidence.is_floating_point():
            raise InputError(
                f"confidence must be floating or bool [{len(embeddings)}], got {confidence.dtype} "
                f"{list(confidence.shape)}"
            )
        return confidence >= self.threshold

    def _reduced(self, losses: dict[str, RowLosses], embeddings: Tensor, labels: Tensor) -> Any:
        if not self.lists_losses:
            return self.reduced(losses, labels)
        return self.reduced_singly(self.singles(losses), embeddings, labels)

    def singles(self, losses: dict[str, RowLosses]) -> dict[str, SingleLosses]:
        """The losses one by one, for reducers that take them so."""
        hinges, radius = losses["loss"], losses["radius"]
        assert hinges.count is not None
        (kept,) = hinges.count.nonzero(as_tuple=True)
        hinge = SingleLosses(hinges.total[kept], (kept,), "element")
        if not len(kept):  # a mean of none is NaN to some reducers
            hinge = SingleLosses(hinges.total.sum(), (), "already_reduced")
        return {
            "loss": hinge,
            "radius": SingleLosses(radius.total, (), "already_reduced"),
        }


FATLoss = FastApproximatedTripletLoss


def _anchors(
    rows: Tensor,
    labels: Tensor,
    soft: SoftLabels | None,
    centroids: Centroids,
    trusted: Tensor | None,
    product: torch.dtype,
) -> _Anchors:
    own = centroids.index_of(labels)
    if soft is None:
        places, shares = own[:, None], (own >= 0).to(rows.dtype)[:, None]
    else:
        places = centroids.index_of(soft.classes)
        shares = torch.where(places >= 0, soft.shares.to(rows.dtype), 0)
        total = shares.sum(dim=1, keepdim=True)
        shares = shares / torch.where(total > 0, total, 1)
    return _Anchors(rows, labels, soft, own, places, shares, trusted, product)


def _weights_of(chosen: Tensor, anchors: _Anchors) -> Tensor:
    """[B, k]: what the chosen centroids count as negatives; 0 where there is none."""
    weights = (chosen >= 0).to(anchors.rows.dtype)
    if anchors.soft is None:
        return weights
    return weights - weights * _shares_of(chosen, anchors.places, anchors.shares)


def _shares_of(wanted: Tensor, named: Tensor, shares: Tensor) -> Tensor:
    """[B, k]: the shares of the wanted [B, k] among those named [B, S]; 0 for others."""
    found = [(shares * (one[:, None] == named)).sum(dim=1) for one in wanted.unbind(dim=1)]
    return torch.stack(found, dim=1)


def _checked_labels(labels: Tensor | SoftLabels, embeddings: Tensor) -> tuple[Tensor, SoftLabels | None]:
    """The class of every sample, the likeliest of soft labels; and those."""
    if isinstance(labels, Tensor) and not labels.is_floating_point():
        return check_labels("labels", labels, "embeddings", embeddings), None
    if isinstance(labels, Tensor):
        if labels.ndim != 2 or len(labels) != len(embeddings):
            raise InputError(f"soft labels must have shape [{len(embeddings)}, C], got {list(labels.shape)}")
        check_distributions("labels", labels)
        labels = largest_shares(labels)
    if not isinstance(labels, SoftLabels):
        raise InputError(f"labels must be a tensor or SoftLabels, got {type(labels).__name__}")
    if len(labels) != len(embeddings):
        raise InputError(f"labels must be those of {len(embeddings)} samples, got {len(labels)}")
    if labels.classes.device != embeddings.device:
        raise InputError(
            f"labels must be on {embeddings.device} like embeddings, got {labels.classes.device}"
        )
    return labels.labels, labels


def _choice(negatives: str) -> tuple[str, int]:
    """What a choice of negatives means: its name and how many."""
    name, colon, number = negatives.partition(":")
    if name in ("all", "mean") and not colon:
        return name, 0
    if name in ("hardest", "batch") and number.isdecimal() and int(number) >= 1:
        return name, int(number)
    raise InputError(
        f"negatives must be 'all', 'mean', 'hardest:k' or 'batch:k' with k of at least 1, got {negatives!r}"
    )


def finite(name: str, value: float) -> float:
    """The value; raises InputError unless it is a finite number."""
    if not math.isfinite(value):
        raise InputError(f"{name} must be a finite number, got {value!r}")
    return float(value)
