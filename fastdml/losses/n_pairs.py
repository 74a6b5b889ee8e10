"""N-pairs loss (Sohn, NeurIPS 2016)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastdml.distances import DotProductSimilarity
from fastdml.engines.pair import pair_losses
from fastdml.errors import InputError
from fastdml.losses.base import Batch, PairLoss
from fastdml.losses.metric_loss import SingleLosses
from fastdml.reducers import DoNothingReducer, ForeignReducer
from fastdml.rules import NTXent, RowLosses


class NPairsLoss(PairLoss):
    """``log(1 + sum_n e^{S_an - S_ap})`` with one anchor and one positive a class, averaged.

    The anchor of a class is its first sample, the positive its second; the negatives are the positives of the
    other classes (Sohn, NeurIPS 2016). Classes of one sample take no part. S is the inner product of unit
    vectors, values are those of pytorch-metric-learning 2.9; the preset "paper" does not normalise.

    Args:
        options: ``distance``, ``reducer``, ``embedding_regularizer`` and ``embedding_reg_weight`` of
            :class:`~fastdml.losses.base.PairLoss`.

    Separate candidates are refused, as they are there. Listed pairs choose the first of every class among
    them.
    """

    default_distance = DotProductSimilarity()
    presets: ClassVar = {"pml": {}, "paper": {"distance": DotProductSimilarity(normalize_embeddings=False)}}

    def rule(self, low: float = -math.inf, high: float = math.inf) -> NTXent:
        return NTXent(1.0)

    def _reduced(self, batch: Batch, pairs: Any) -> Any:
        if batch.ref_embeddings is not None:
            raise InputError("ref_emb must be None for NPairsLoss, got a tensor")
        single = self._of_classes(batch, pairs)
        if self.returns_rows:
            return single.losses
        if isinstance(self.reducer, DoNothingReducer):
            return {"loss": single.described()}
        if isinstance(self.reducer, ForeignReducer):
            return self.reducer.reducer({"loss": single.described()}, batch.embeddings, batch.labels)
        # the losses are those of the classes, not of the samples
        return self.reducer.of("loss").reduce(RowLosses(single.losses), batch.labels[single.indices[0]])

    def _of_classes(self, batch: Batch, pairs: Any) -> SingleLosses:
        if pairs is None:
            anchors, positives = first_two_of_each_class(batch.labels)
        else:
            listed = self.listed(batch, pairs).pairs()
            classes = batch.labels[listed.positive_anchors]
            order = torch.argsort(classes, stable=True)
            first = order[_starts(classes[order])]
            anchors, positives = listed.positive_anchors[first], listed.positives[first]
        classes = torch.arange(len(anchors), device=anchors.device)
        losses = pair_losses(
            self.rule(), batch.embeddings[anchors], classes, batch.embeddings[positives], classes,
            closeness=self.closeness,
        )["loss"].total  # fmt: skip
        return SingleLosses(losses, (anchors,), "element")


def first_two_of_each_class(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the first and of the second sample of every class that has two, by label."""
    order = torch.argsort(labels, stable=True)
    ordered = labels[order]
    first = torch.nonzero(_starts(ordered)).squeeze(1)
    first = first[first + 1 < len(labels)]
    first = first[ordered[first] == ordered[first + 1]]
    return order[first], order[first + 1]


def _starts(ordered: Tensor) -> Tensor:
    """Where a run of equal labels starts, bool."""
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    return starts
