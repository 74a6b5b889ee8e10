"""Centres of classes divided over the ranks of torch.distributed."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastdml.distributed.collectives import GatheredValues, LogSumExpAndSum, Parts, gathered, rank_and_ranks
from fastdml.distributed.global_batch import GlobalBatch, announce_error, gather_batch
from fastdml.distributed.initialise import filled_part
from fastdml.distributed.placement import Placement
from fastdml.errors import InputError
from fastdml.losses.centered import CenteredLoss
from fastdml.losses.element_weights import element_weights
from fastdml.losses.proxy import ProxyLoss
from fastdml.losses.proxy_anchor import ProxyAnchorLoss
from fastdml.rules import ProxyStatistics, RowLosses


def shard_centers(
    loss: CenteredLoss, group: dist.ProcessGroup | None = None, *, data_parallel: bool = False
) -> ShardedCenters:
    """The loss with its centres, and so their gradients and optimiser state, divided over the ranks.

    Called by every rank of the group, with the same loss: built from the same seed, or loaded from the same
    file. Where the centres are too many for one rank, build the loss under ``torch.device("meta")``: then
    every rank makes its own part alone, on the CPU, by the loss's ``weight_init_func``.

    Args:
        loss: a softmax over centres of classes or Proxy-Anchor, with as many centres for every class or of
            each its own number. It is left as it is.
        group: the ranks; None: all.
        data_parallel: multiply the gradient of the embeddings, and of nothing else, by the number of ranks.
            DistributedDataParallel divides the sum of the ranks' gradients by it, which suits a mean of
            losses of ranks; here every rank has the loss of the global batch, whose gradient is the sum.

    Raises:
        InputError: there is no process group, or the loss is not one that can be divided.
    """
    return ShardedCenters(loss, group, data_parallel=data_parallel)


class ShardedCenters(nn.Module):
    """A loss of the batches of all ranks whose centres are divided over the ranks by class.

    Made by :func:`shard_centers`. Keep it out of DistributedDataParallel: its centres differ by rank.
    ``state_dict`` holds this rank's part; for all see :func:`~fastdml.distributed.full_state_dict`.
    """

    def __init__(
        self, loss: CenteredLoss, group: dist.ProcessGroup | None = None, *, data_parallel: bool = False
    ) -> None:
        super().__init__()
        self.rank, self.ranks = rank_and_ranks(group)
        if not isinstance(loss, ProxyLoss | ProxyAnchorLoss):
            raise InputError(
                f"loss must be one with centres of classes, as SoftTripleLoss, got {type(loss).__name__}"
            )
        if loss.weight_regularizer is not None:
            raise InputError("weight_regularizer must be None where centres are divided over ranks")
        self.group = group
        self.num_classes, self.embedding_size = loss.num_classes, loss.embedding_size
        self.factor = self.ranks if data_parallel else 1
        self.placement = Placement(loss.layout, self.ranks)
        self.loss = _part(loss, self.placement, self.rank)
        """The loss with this rank's centres."""

    @property
    def centers(self) -> nn.Parameter:
        """The parameter with this rank's centres, laid out as that of the loss."""
        return self.loss.centers

    @property
    def classes(self) -> range:
        """The classes whose centres this rank holds."""
        held = self.placement.classes(self.rank)
        return range(held.start, held.stop)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: None = None,
        ref_emb: None = None,
        ref_labels: None = None,
        *,
        weights: Tensor | None = None,
    ) -> Any:
        """The loss of the batches of all ranks, in the order of the ranks, equal on all.

        Every rank must call it, and then the same backward. Values and gradients are those of the whole loss
        on the whole batch; the gradient of the embeddings is that of this rank's.

        Args:
            embeddings: [B, D] of this rank, B from 0 on; of the same dtype on every rank: float32, bfloat16,
                float16 or float64.
            labels: [B], of any integer dtype, in [0, C), C the classes of all ranks.
            indices_tuple: None; samples of other ranks are not known to a miner.
            ref_emb: None; samples are compared with centres only.
            ref_labels: None.
            weights: [B], what the loss of each sample is multiplied with before it is reduced; None is 1.
                Not for Proxy-Anchor.

        Returns:
            What the loss returns for the whole batch: a scalar, or all losses for reducer "none".

        Raises:
            InputError: an argument of the wrong shape, dtype, device or range, on any rank: then on all. On
                a GPU a label out of range makes its sample's loss NaN.
            BackendError: the backend that was asked for cannot run here.
        """
        try:
            labels = self._checked(embeddings, labels, indices_tuple, ref_emb, ref_labels, weights)
        except InputError:
            announce_error(self.group, self.centers.device)
            raise
        if self.loss.ignore_index is not None:
            kept = labels != self.loss.ignore_index
            embeddings, labels = embeddings[kept], labels[kept]
            weights = None if weights is None else weights[kept]
        batch = gather_batch(
            embeddings, labels, weights,
            group=self.group, centers=self.placement.layout.total, factor=self.factor,
        )  # fmt: skip
        if isinstance(self.loss, ProxyAnchorLoss):
            return self._proxy_anchor(self.loss, batch)
        assert isinstance(self.loss, ProxyLoss)
        return self._softmax(self.loss, batch, embeddings.dtype)

    def _softmax(self, loss: ProxyLoss, batch: GlobalBatch, product: torch.dtype) -> Any:
        rows, lengths = loss.compared(batch.embeddings)
        part = loss.gather(rows, self._labels_here(batch.labels), product)
        statistics, regularisation = self._combined(part, loss.regularisation(part))
        lengths = None if lengths is None else self._once(lengths)
        losses = loss.sample_losses(statistics, batch.labels, lengths)
        losses = losses if batch.weights is None else losses * batch.weights.to(losses.dtype)
        return loss.finished(
            {"loss": RowLosses(losses)}, self._once(batch.embeddings), batch.labels,
            batch.labels.clamp(0, self.num_classes - 1), regularisation,
        )  # fmt: skip

    def _proxy_anchor(self, loss: ProxyAnchorLoss, batch: GlobalBatch) -> Any:
        parts = Parts(self.placement.class_counts(), self.rank, self.group)
        losses = {}
        for name, one in loss.proxy_losses(batch.embeddings, self._labels_here(batch.labels)).items():
            assert one.divisor is not None
            divisor = one.divisor.clone()
            dist.all_reduce(divisor, group=self.group)
            losses[name] = RowLosses(GatheredValues.apply(one.total, parts), divisor=divisor)
        classes = torch.arange(self.num_classes, device=batch.labels.device)
        return loss.finished(losses, self._once(batch.embeddings), batch.labels, classes)

    def _labels_here(self, labels: Tensor) -> Tensor:
        """The labels among this rank's classes, -1 for all others."""
        held = self.placement.classes(self.rank)
        return torch.where((labels >= held.start) & (labels < held.stop), labels - held.start, -1)

    def _once(self, everywhere: Tensor) -> Tensor:
        """Lets one rank's gradient through of what all ranks compute alike from the gathered embeddings."""
        return everywhere if self.rank == 0 else everywhere.detach()

    def _combined(
        self, part: ProxyStatistics, regularisation: Tensor | None
    ) -> tuple[ProxyStatistics, Tensor | None]:
        """The statistics of all classes, and what all ranks add to the loss."""
        added = part.total.new_zeros(()) if regularisation is None else regularisation
        terms = torch.cat([part.target, part.total, added.to(part.total).reshape(1)])
        others, sums = LogSumExpAndSum.apply(part.others, terms, self.group)
        target, total, added = sums.split([len(others), len(others), 1])
        statistics = ProxyStatistics(others, target, total, part.spread)
        return statistics, None if regularisation is None else added.squeeze(0)

    def _checked(
        self, embeddings: Tensor, labels: Tensor, indices_tuple: Any, ref_emb: Any, ref_labels: Any,
        weights: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """The labels as int64; raises InputError on arguments that do not fit."""
        self.loss.check_without_references(ref_emb, ref_labels)
        if indices_tuple is not None:
            raise InputError("indices_tuple must be None where centres are divided over ranks")
        if weights is not None and isinstance(self.loss, ProxyAnchorLoss):
            raise InputError("weights must be None for ProxyAnchorLoss")
        self.loss.check_embeddings(embeddings)
        if isinstance(labels, Tensor) and labels.is_floating_point():
            raise InputError(
                "labels must be integers where centres are divided over ranks, "
                f"got {str(labels.dtype).removeprefix('torch.')}"
            )
        element_weights(None, embeddings, weights)
        return self.loss.checked_labels(labels, embeddings)

    @torch.no_grad()
    def count_centers(self, delta: float = 0.01) -> Tensor:
        """How many different centres every class has, [C] int64, on every rank; every rank must call it.

        Args:
            delta: how far a cosine of two centres that are one may lie below 1; in [0, 2].
        """
        parts = Parts(self.placement.class_counts(), self.rank, self.group)
        return gathered(self.loss.count_centers(delta).to(self.centers.device), parts).cpu()

    def get_extra_state(self) -> dict[str, int]:
        return {"rank": self.rank, "ranks": self.ranks}

    def set_extra_state(self, state: dict[str, int]) -> None:
        if state != self.get_extra_state():
            raise InputError(
                f"state_dict must be that of rank {self.rank} of {self.ranks}, got rank {state['rank']} of "
                f"{state['ranks']}; full_state_dict is independent of ranks"
            )

    def extra_repr(self) -> str:
        return f"classes={self.classes.start}..{self.classes.stop} of {self.num_classes}, ranks={self.ranks}"


def _part(loss: CenteredLoss, placement: Placement, rank: int) -> CenteredLoss:
    """The loss with the centres of a rank alone; its divisors are still those of all classes."""
    whole = loss.centers.detach()
    positions = placement.centers(rank)
    made = loss.twin()
    made.layout = placement.layout_of(rank)
    if loss.class_counts is not None:
        made.class_counts = made.layout.counts.to(loss.class_counts.device)
    if whole.is_meta:
        shape = (loss.embedding_size, len(positions))
        part = filled_part(whole, shape if loss.columns else shape[::-1], loss.fill, rank)
    else:
        part = whole.index_select(int(loss.columns), positions.to(whole.device))
    setattr(made, loss.parameter_name, nn.Parameter(part, loss.centers.requires_grad))
    return made
