"""What every pair loss shares: the call, distances, reducers and index tuples of pytorch-metric-learning."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from fastdml.engines.pair import pair_losses
from fastdml.errors import InputError
from fastdml.functional import check_own, check_pairs
from fastdml.losses.listed import ListedPairs, ListedTriplets, all_pairs, listed_statistics, listed_tuple
from fastdml.losses.metric_loss import MetricLoss, SingleLosses
from fastdml.miners import Mined, MinedPairs
from fastdml.reducers import (
    MultipleReducers,
)
from fastdml.rules import EVERYTHING, PairRule, RowLosses, Selection


class Batch(NamedTuple):
    """What a loss compares: checked embeddings and labels, with candidates or without."""

    embeddings: Tensor
    labels: Tensor
    ref_embeddings: Tensor | None = None
    ref_labels: Tensor | None = None
    own: Tensor | None = None

    @property
    def candidates(self) -> int:
        return len(self.embeddings if self.ref_embeddings is None else self.ref_embeddings)


class PairLoss(MetricLoss):
    """A loss of pairs or triplets, fused where its rule has a kernel, in memory linear in the batch.

    Args:
        options: ``distance``, ``reducer``, ``embedding_regularizer`` and ``embedding_reg_weight`` of
            :class:`~fastdml.losses.metric_loss.MetricLoss`.
    """

    @abstractmethod
    def rule(self, low: float = -math.inf, high: float = math.inf) -> PairRule:
        """The rule that the engine runs; ``low`` and ``high`` bound the losses of pairs that count."""

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: Any = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
        *,
        own: Tensor | None = None,
    ) -> Any:
        """The loss of a batch.

        Args:
            embeddings: [N, D], float32, bfloat16, float16 or float64.
            labels: [N], any integer dtype, on the device of the embeddings. May be left out where
                ``indices_tuple`` lists the pairs.
            indices_tuple: what a miner returned: a lazy selection of :mod:`fastdml.miners`, which is fused
                into the loss; or index tensors, anchors and positives and anchors and negatives, or triplets.
            ref_emb: [M, D] candidates to compare with instead of the batch itself; then no anchor is left out
                as its own candidate, also where ``ref_labels`` is ``labels``, unless ``own`` says which it
                is.
            ref_labels: [M].
            own: [N], int64, with ``ref_emb``: the candidate that each anchor itself is, -1 for none.

        Returns:
            A scalar; [N] for reducer "none"; or what a reducer of another making returns.

        Raises:
            InputError: an argument of the wrong shape, dtype or device.
            BackendError: the backend that was asked for cannot run here.
        """
        if labels is None:
            if indices_tuple is None:
                raise InputError("labels must be given where indices_tuple is not, got None for both")
            labels = torch.zeros(len(embeddings), dtype=torch.int64, device=embeddings.device)
            if ref_emb is not None and ref_labels is None:
                ref_labels = torch.zeros(len(ref_emb), dtype=torch.int64, device=ref_emb.device)
        labels, ref_labels = check_pairs(embeddings, labels, ref_emb, ref_labels)
        check_own(own, embeddings, ref_emb)
        batch = Batch(embeddings, labels, ref_emb, ref_labels, own)
        return self.regularised(self._reduced(batch, indices_tuple), embeddings)

    def _reduced(self, batch: Batch, pairs: Any) -> Any:
        if self.lists_losses:
            return self.reduced_singly(self._singles(batch, pairs), batch.embeddings, batch.labels)
        return self.reduced(self._losses(batch, pairs), batch.labels)

    def _losses(self, batch: Batch, pairs: Any) -> dict[str, RowLosses]:
        bounds = self._bounds()
        if bounds is not None and self.fuses(*bounds):
            return self.row_losses(batch, pairs, *bounds)
        found = {}
        for name, single in self._singles(batch, pairs).items():
            reducer = self.reducer.of(name)
            found[name] = single.by_anchor(len(batch.embeddings), reducer.low, reducer.high)
        return found

    def _bounds(self) -> tuple[float, float] | None:
        """Which losses of pairs count; None where those of different kinds are bounded differently."""
        if not isinstance(self.reducer, MultipleReducers):
            return self.reducer.low, self.reducer.high
        bounds = {(self.reducer.of(name).low, self.reducer.of(name).high) for name in self.loss_names}
        return bounds.pop() if len(bounds) == 1 else None

    loss_names: ClassVar[tuple[str, ...]] = ("loss",)
    """What a reducer of several knows the losses by."""

    def fuses(self, low: float, high: float) -> bool:
        """Whether losses can be summed by anchor where only those between the bounds count."""
        del low, high
        return True

    def selection_of(self, pairs: Any, batch: Batch) -> Selection | None:
        """The selection of a lazy miner that fuses with this loss on this batch, all for None; else None."""
        if pairs is None:
            return EVERYTHING
        if isinstance(pairs, MinedPairs) and pairs.fits(
            batch.embeddings, batch.ref_embeddings, self.closeness
        ):
            return pairs.selection
        return None

    def row_losses(self, batch: Batch, pairs: Any, low: float, high: float) -> dict[str, RowLosses]:
        """The losses by anchor, of all pairs, of a fused selection, or of listed pairs."""
        rule = self.rule(low, high)
        selection = self.selection_of(pairs, batch)
        if selection is None:
            listed = self.listed(batch, pairs).pairs()
            statistics = listed_statistics(rule, self.closeness, batch, listed, self.row(batch))
            return rule.value(statistics, self.closeness)
        return pair_losses(
            rule,
            *batch[:4],
            closeness=self.closeness,
            own=batch.own,
            row=self.row(batch),
            selection=selection,
        )

    def row(self, batch: Batch) -> Tensor | None:
        """The number of each anchor that the rule's terms read, [N]."""
        del batch
        return None

    def listed(self, batch: Batch, pairs: Any) -> ListedPairs | ListedTriplets:
        """The pairs or triplets of an index tuple; all pairs for None."""
        if pairs is None:
            return all_pairs(batch.labels, batch.ref_labels, batch.own)
        if isinstance(pairs, Mined):
            pairs.check_sizes(len(batch.embeddings), batch.candidates)
        return listed_tuple(pairs, len(batch.embeddings), batch.candidates, batch.embeddings.device).without(
            batch.own
        )

    def _singles(self, batch: Batch, pairs: Any) -> dict[str, SingleLosses]:
        if self.kind == "element":
            total = self.row_losses(batch, pairs, -math.inf, math.inf)["loss"].total
            return {"loss": SingleLosses(total, (torch.arange(len(total), device=total.device),), "element")}
        return self.single_losses(batch, pairs)

    kind: ClassVar[str] = "element"
    """Of what the losses are: anchors, or else pairs or triplets, whose losses :meth:`single_losses`
    lists.
    """

    def single_losses(self, batch: Batch, pairs: Any) -> dict[str, SingleLosses]:
        """The loss of every single pair or triplet, for reducers that cannot take sums by anchor."""
        raise NotImplementedError
