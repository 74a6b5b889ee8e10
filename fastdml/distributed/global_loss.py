"""Any loss as that of the batches of all ranks."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastdml.backends.dtypes import accumulator
from fastdml.distributed.collectives import (
    AnchorsAndCandidates,
    GatheredValues,
    Parts,
    gathered,
    rank_and_ranks,
)
from fastdml.distributed.global_batch import announce_error, divided
from fastdml.distributed.own_anchors import anchor_losses, divides_by_anchor, mined
from fastdml.distributed.sharded_centers import ShardedCenters
from fastdml.errors import InputError
from fastdml.functional import check_labels, check_rows
from fastdml.losses.base import Batch, PairLoss
from fastdml.losses.centroid_bank import CentroidBank
from fastdml.losses.cross_batch_memory import CrossBatchMemory
from fastdml.losses.multiple import MultipleLosses
from fastdml.losses.self_supervised import SelfSupervisedLoss
from fastdml.soft_labels import SoftLabels

Labels = Tensor | SoftLabels


class GlobalBatchLoss(nn.Module):
    """The loss of the batches of all ranks as one, for any number of ranks and batches of any sizes.

    Value and gradients equal those of one process on the whole batch, in the order of the ranks. Of a pair
    loss, in a cross-batch memory or one of several too, every rank compares its own anchors with all
    candidates: an R-th of the work, in memory linear in the whole batch. Any other loss, and a pair loss
    whose reducer asks for single pairs, is computed whole on every rank. Parameters of the loss get the
    whole gradient, the same on every rank. The loss and its state are ``loss``.

    Args:
        loss: called with embeddings and labels; the same on every rank, parameters included. What draws at
            random must draw the same on all ranks, but the triplets of a pair loss, which each rank draws of
            its own anchors.
        group: the ranks; None: all.
        data_parallel: multiply the gradient of the embeddings, and of nothing else, by the number of ranks,
            by which DistributedDataParallel divides the sum of the ranks' gradients.

    Raises:
        InputError: there is no process group, or the loss has no global batch: SelfSupervisedLoss, whose
            labels are places in a batch; one that already is of all ranks; and on several ranks one with a
            CentroidBank, which counts epochs by the samples of its rank.
    """

    def __init__(
        self, loss: nn.Module, group: dist.ProcessGroup | None = None, *, data_parallel: bool = False
    ) -> None:
        super().__init__()
        self.rank, self.ranks = rank_and_ranks(group)
        self.group = group
        _check_loss(loss, self.ranks)
        self.factor = self.ranks if data_parallel else 1
        self.loss = loss

    def forward(
        self,
        embeddings: Tensor,
        labels: Labels,
        indices_tuple: None = None,
        ref_emb: None = None,
        ref_labels: None = None,
        *,
        confidence: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Any:
        """The loss of the batches of all ranks, in the order of the ranks, equal on all.

        Every rank must call it, and then the same backward. The gradient of the embeddings is that of this
        rank's.

        Args:
            embeddings: [B, D] of this rank, B from 0 on; of the same D and dtype on every rank: float32,
                bfloat16, float16 or float64.
            labels: [B], of any integer dtype; or what else the loss takes: :class:`fastdml.SoftLabels`, or
                [B, C] of a floating dtype.
            indices_tuple: None; mine by the miner of MultipleLosses or CrossBatchMemory, which is given the
                candidates of all ranks.
            ref_emb: None.
            ref_labels: None.
            confidence: [B], for FAT; given by all ranks or by none.
            weights: [B], for a loss of centres; likewise.

        Returns:
            What the loss returns for the whole batch.

        Raises:
            InputError: an argument of the wrong shape, dtype or device, on any rank: then on all.
            BackendError: the backend that was asked for cannot run here.
        """
        options = {"confidence": confidence, "weights": weights}
        given = {name: value for name, value in options.items() if value is not None}
        listed = [argument for argument in (indices_tuple, ref_emb, ref_labels) if argument is not None]
        if self.ranks == 1 and not listed:
            return self.loss(embeddings, labels, **given)
        try:
            if listed:
                raise InputError(
                    "indices_tuple, ref_emb and ref_labels must be None for the batch of all ranks"
                )
            labels = _checked(self.loss, embeddings, labels, given)
        except InputError:
            announce_error(self.group, _device(embeddings, self.group))
            raise
        embeddings, parts, _ = divided(embeddings, self.group, form=_form(labels, given))
        batch = _WholeBatch(embeddings, _all_labels(labels, parts), parts, self.factor)
        shared = {name: GatheredValues.apply(value, parts) for name, value in given.items()}
        return self._value(self.loss, batch, None, shared)

    def _value(
        self, loss: nn.Module, batch: _WholeBatch, miner: nn.Module | None, given: Mapping[str, Tensor]
    ) -> Any:
        if miner is None:
            if isinstance(loss, MultipleLosses):
                miners = dict(loss.miners.items())
                values = [
                    self._value(one, batch, miners.get(name), {}) * loss.weights[name]
                    for name, one in loss.losses.items()
                ]
                return sum(values)
            if isinstance(loss, CrossBatchMemory) and divides_by_anchor(loss.loss):
                return _against_memory(loss, batch)
        if isinstance(loss, PairLoss) and divides_by_anchor(loss):
            return self._by_anchor(loss, batch, miner)
        rows = batch.rows
        pairs = () if miner is None else (miner(rows, batch.labels),)
        return loss(rows, batch.labels, *pairs, **given)

    def _by_anchor(self, loss: PairLoss, batch: _WholeBatch, miner: nn.Module | None) -> Any:
        anchors, candidates = batch.sides
        labels, parts = batch.labels, batch.parts
        places = torch.arange(len(labels), device=labels.device)
        own = Batch(anchors, parts.own(labels), candidates, labels, parts.own(places))
        if labels.is_cpu:  # what one rank's labels make fail must fail on all
            with torch.no_grad():
                loss.row(Batch(candidates, labels))
        pairs = None if miner is None else mined(miner, own, parts)
        losses = anchor_losses(loss, own, pairs, parts, among_themselves=True)
        # all ranks regularise the whole batch, so that one gradient is enough
        regularised = candidates if self.rank == 0 else candidates.detach()
        return loss.regularised(loss.reduced(losses, labels), regularised)

    def extra_repr(self) -> str:
        return f"ranks={self.ranks}"


class _WholeBatch:
    """The samples of all ranks; embeddings are gathered when they are first asked for."""

    def __init__(self, own: Tensor, labels: Any, parts: Parts, factor: int) -> None:
        self.own, self.labels, self.parts, self.factor = own, labels, parts, factor

    @cached_property
    def rows(self) -> Tensor:
        """[N, D], for what all ranks compute alike: every rank has the whole gradient."""
        found: Tensor = GatheredValues.apply(self.own, self.parts, self.factor)
        return found

    @cached_property
    def sides(self) -> tuple[Tensor, Tensor]:
        """[n, D] of this rank and [N, D], for what every rank computes a part of."""
        wide = accumulator(self.own.dtype)
        anchors, candidates = AnchorsAndCandidates.apply(self.own, self.parts, wide, self.factor)
        return anchors, candidates


def _against_memory(memory: CrossBatchMemory, batch: _WholeBatch) -> Any:
    """The loss of own anchors against a ring that takes in the batches of all ranks."""
    rows, labels, parts = batch.rows, batch.labels, batch.parts
    if rows.shape[1] != memory.embedding_size:
        raise InputError(f"embeddings must have shape [N, {memory.embedding_size}], got {list(rows.shape)}")
    places = memory._enqueue(rows, labels)
    filled = memory.memory_size if memory.has_been_filled else memory.queue_idx
    ring = memory.embedding_memory[:filled], memory.label_memory[:filled]
    anchors = parts.own(rows), parts.own(labels)
    pairs = None if memory.miner is None else memory.miner(*anchors, *ring)
    loss = memory.loss
    assert isinstance(loss, PairLoss)
    own = Batch(*anchors, *ring, parts.own(places))
    losses = anchor_losses(loss, own, pairs, parts, among_themselves=False)
    return loss.regularised(loss.reduced(losses, labels), rows)


def _check_loss(loss: nn.Module, ranks: int) -> None:
    for module in loss.modules():
        kind = type(module).__name__
        if isinstance(module, ShardedCenters | GlobalBatchLoss):
            raise InputError(f"loss must be one of a batch, got {kind}, which is one of all ranks")
        if isinstance(module, SelfSupervisedLoss):
            raise InputError(
                "loss must be one of labels, got SelfSupervisedLoss: give its loss both versions, with "
                "labels that differ over all ranks"
            )
        if ranks == 1:
            continue
        if isinstance(module, CentroidBank):
            raise InputError(
                "loss must be without a CentroidBank, got one: it adds up over ranks by itself, so let every "
                "rank have the loss of its own batch"
            )
        drawn = getattr(module, "triplets_per_anchor", "all") != "all"
        if drawn and isinstance(module, PairLoss) and not divides_by_anchor(module):
            raise InputError(
                f"triplets_per_anchor must be 'all' for {kind} with a reducer of single triplets, or swap: "
                "every rank would draw others"
            )


def _checked(loss: nn.Module, embeddings: Tensor, labels: Labels, given: Mapping[str, Tensor]) -> Labels:
    """The labels, as int64 where they are numbers; raises InputError on what does not fit."""
    check_rows("embeddings", embeddings)
    hard_only = isinstance(loss, PairLoss | MultipleLosses | CrossBatchMemory)
    if isinstance(labels, SoftLabels) or (isinstance(labels, Tensor) and labels.is_floating_point()):
        if hard_only:
            raise InputError(f"labels must be integers for {type(loss).__name__}, got soft ones")
        columns = labels.classes if isinstance(labels, SoftLabels) else labels
        if columns.ndim != 2 or len(columns) != len(embeddings):
            raise InputError(f"soft labels must have shape [{len(embeddings)}, C], got {list(columns.shape)}")
        if columns.device != embeddings.device:
            raise InputError(f"labels must be on {embeddings.device} like embeddings, got {columns.device}")
    else:
        labels = check_labels("labels", labels, "embeddings", embeddings)
    for name, value in given.items():
        if hard_only:
            raise InputError(f"{name} must be None for {type(loss).__name__}")
        if not isinstance(value, Tensor) or value.shape != embeddings.shape[:1]:
            got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"{name} must be a tensor of shape [{len(embeddings)}], got {got}")
        if value.device != embeddings.device:
            raise InputError(f"{name} must be on {embeddings.device} like embeddings, got {value.device}")
    return labels


def _form(labels: Labels, given: Mapping[str, Tensor]) -> int:
    """A number that tells apart in what form labels and options are given."""
    columns = (labels.shares if isinstance(labels, SoftLabels) else labels).shape[1:]
    dtype = labels.shares.dtype if isinstance(labels, SoftLabels) else labels.dtype
    options = [(name, str(value.dtype)) for name, value in given.items()]
    return zlib.crc32(repr((type(labels).__name__, list(columns), str(dtype), options)).encode())


def _all_labels(labels: Labels, parts: Parts) -> Labels:
    """Those of all ranks."""
    if isinstance(labels, SoftLabels):
        return SoftLabels(gathered(labels.classes, parts), gathered(labels.shares, parts))
    return gathered(labels, parts)


def _device(embeddings: Any, group: dist.ProcessGroup | None) -> torch.device:
    """Where the ranks tell each other what they bring."""
    if isinstance(embeddings, Tensor):
        return embeddings.device
    return torch.device("cuda" if "nccl" in str(dist.get_backend(group)) else "cpu")
