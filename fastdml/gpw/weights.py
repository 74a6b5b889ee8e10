"""Pair weights by autograd: every candidate gets a coordinate of its own, which only its own pairs see.

The coordinate is far too short to change a similarity, even in the last bit, and anchors have 0 there. So the
gradient of an anchor along it is the weight of that one pair, whichever way the loss was computed.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastdml.backends.reference import compared_rows, pair_masks
from fastdml.backends.registry import use_backend
from fastdml.errors import InputError
from fastdml.functional import check_own, check_pairs
from fastdml.losses import LiftedStructureLoss, NPairsLoss, PairLoss, TripletMarginLoss
from fastdml.losses.base import Batch
from fastdml.rules import PairStatistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A power of two, so that to divide by it is exact, and small enough for its square to be 0.
TAG = 2.0**-600
# What rows shorter than this are divided by where they are normalised.
SHORTEST = 1e-12


@dataclass(frozen=True, eq=False)
class PairWeights:
    """The weights of the pairs of some anchors: A anchors against M candidates, in float64."""

    similarity: Tensor
    """[A, M]: the inner product ``S`` of the rows as they are compared, the cosine of unit vectors."""
    weight: Tensor
    """[A, M]: ``dL/dS``. Negatives are pushed with what is above 0, positives pulled with what is below."""
    positive: Tensor
    """[A, M], bool: the pairs of one label."""
    negative: Tensor
    """[A, M], bool: the pairs of two labels. An anchor and itself are neither."""
    anchors: Tensor
    """[A], int64: which anchors of the batch these are."""

    def plot(self, axes: Axes | None = None, **options: Any) -> Axes:
        """Draws weight against similarity, one point a pair; see :func:`fastdml.gpw.plot.draw`.

        Raises:
            ImportError: matplotlib is missing.
        """
        from fastdml.gpw.plot import draw  # needs matplotlib, which is optional

        return draw(self, axes, **options)


def weights(
    loss: PairLoss,
    embeddings: Tensor,
    labels: Tensor,
    anchors: Any = None,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    indices_tuple: Any = None,
    *,
    own: Tensor | None = None,
) -> PairWeights:
    """How much the loss changes with the similarity of every pair of the chosen anchors.

    Computed on the dense reference in float64, in O((N + M) (M + D)) numbers, and for triplets in O(M) for
    every positive pair: meant for batches to look at. Where anchors are compared with each other, ``S_ij`` as
    a similarity of anchor i and as one of anchor j are two numbers, and the force between the two rows is the
    sum of both weights.

    Args:
        loss: a loss of :mod:`fastdml.losses`, of pairs or triplets, with any reducer to one number. Random
            triplets are drawn anew.
        embeddings: [N, D].
        labels: [N], any integer dtype.
        anchors: indices of the anchors that are asked for, as a tensor, list or number; None: all.
        ref_emb: [M, D] candidates; None compares the anchors with each other.
        ref_labels: [M].
        indices_tuple: what a miner returned, or index tensors.
        own: [N], int64, with ``ref_emb``: the candidate that each anchor itself is, -1 for none.

    Raises:
        InputError: an argument that does not fit; a loss whose weights belong to no one anchor (``swap``), or
            that is no :class:`~fastdml.losses.PairLoss`.
    """
    if not isinstance(loss, PairLoss):
        raise InputError(f"loss must be a PairLoss of fastdml.losses, got {type(loss).__name__}")
    labels, ref_labels = check_pairs(embeddings, labels, ref_emb, ref_labels)
    check_own(own, embeddings, ref_emb)
    rows = compared_rows(loss.closeness, embeddings.detach().double())[0]
    refs = rows if ref_emb is None else compared_rows(loss.closeness, ref_emb.detach().double())[0]
    chosen = _indices(anchors, len(rows), rows.device)
    if isinstance(loss, NPairsLoss):
        weight = _of_classes(loss, Batch(rows, labels, ref_emb, ref_labels), indices_tuple)
    elif ref_emb is None:
        # listed pairs mean what they say: only labels would make an anchor its own positive
        itself = None if indices_tuple is not None else torch.arange(len(rows), device=rows.device)
        weight = _of_anchors(_told_apart(loss), Batch(rows, labels, rows, labels, itself), indices_tuple)
    else:
        weight = _of_anchors(loss, Batch(rows, labels, refs, ref_labels, own), indices_tuple)
    positive, negative = pair_masks(labels, ref_labels, own)
    return PairWeights(rows[chosen] @ refs.T, weight[chosen], positive[chosen], negative[chosen], chosen)


def _of_anchors(loss: PairLoss, batch: Batch, pairs: Any) -> Tensor:
    """``dL/dS`` [N, M]."""
    assert batch.ref_embeddings is not None
    leaf = torch.nn.functional.pad(batch.embeddings, (0, len(batch.ref_embeddings))).requires_grad_()
    tagged = _tagged(batch.ref_embeddings, loss.closeness.normalised)
    gradient = _gradient(loss, leaf, batch.labels, pairs, tagged, batch.ref_labels, batch.own)
    return _along_tags(loss, batch.embeddings, gradient)


def _of_classes(loss: NPairsLoss, batch: Batch, pairs: Any) -> Tensor:
    """``dL/dS`` [N, N] of a loss that takes anchors and candidates from one batch, none as both."""
    if batch.ref_embeddings is not None:
        raise InputError("ref_emb must be None for NPairsLoss, got a tensor")
    leaf = _tagged(batch.embeddings, loss.closeness.normalised).requires_grad_()
    both = _along_tags(loss, batch.embeddings, _gradient(loss, leaf, batch.labels, pairs))
    is_anchor = torch.zeros(len(leaf), dtype=torch.bool, device=leaf.device)
    is_anchor[loss._of_classes(batch, pairs).indices[0]] = True
    # along its tag a candidate feels its anchors, too
    return torch.where(is_anchor[:, None] & ~is_anchor[None, :], both, 0)


def _tagged(rows: Tensor, normalised: bool) -> Tensor:
    """Rows [M, D + M], each with its coordinate; a row of zeros stays too short to be normalised."""
    tagged = torch.cat([rows, TAG * torch.eye(len(rows), dtype=rows.dtype, device=rows.device)], dim=1)
    zero = (rows == 0).all(dim=1, keepdim=True)
    return torch.where(zero & normalised, tagged * SHORTEST, tagged)


def _along_tags(loss: PairLoss, rows: Tensor, gradient: Tensor) -> Tensor:
    """The weights [N, M] in the gradient of the anchors."""
    weight = gradient[:, rows.shape[1] :] / TAG
    if loss.closeness.normalised:
        # on its way through the normalisation it was divided by the length, or by the shortest there is
        weight = weight * rows.norm(dim=1, keepdim=True).clamp_min(SHORTEST)
    return weight


def _gradient(loss: PairLoss, leaf: Tensor, *rest: Any) -> Tensor:
    """The gradient of the loss in its anchors."""
    labels, pairs, *refs = rest
    with use_backend("reference"), torch.enable_grad():
        value = loss(leaf, labels, pairs, *refs[:2], **({"own": refs[2]} if refs else {}))
        if not isinstance(value, Tensor):
            raise InputError(
                f"loss must be reduced to numbers, got {type(loss.reducer).__name__}, "
                f"which returns {type(value).__name__}"
            )
        if not value.requires_grad:
            return torch.zeros_like(leaf)
        return torch.autograd.grad(value.sum(), leaf)[0]


class _JoinedLiftedStructure(LiftedStructureLoss):
    """Joins the negatives of both rows of a pair, as without separate candidates."""

    def _of_pairs(
        self, statistics: PairStatistics, c: Tensor, anchors: Tensor, positives: Tensor, self_pairs: bool
    ) -> Tensor:
        return super()._of_pairs(statistics, c, anchors, positives, True)


def _told_apart(loss: PairLoss) -> PairLoss:
    """The loss that takes the batch as its own candidates and is worth the same."""
    if isinstance(loss, TripletMarginLoss) and loss.swap:
        raise InputError("loss must not swap: its negatives are those of the positive too, got swap=True")
    if isinstance(loss, LiftedStructureLoss):
        loss = copy.copy(loss)
        loss.__class__ = _JoinedLiftedStructure
    return loss


def _indices(anchors: Any, count: int, device: torch.device) -> Tensor:
    if anchors is None:
        return torch.arange(count, device=device)
    found = torch.as_tensor(anchors, device=device)
    if found.ndim == 0:
        found = found[None]
    if found.dtype not in (torch.int64, torch.int32) or found.ndim != 1:
        raise InputError(f"anchors must be indices, got {found.dtype} {list(found.shape)}")
    if len(found) and not 0 <= int(found.min()) <= int(found.max()) < count:
        raise InputError(
            f"anchors must be indices from 0 to {count - 1}, got {int(found.min())} to {int(found.max())}"
        )
    return found.long()
