"""The losses of this rank's anchors, as they are among the anchors of all ranks."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call

from fastdml.backends.dtypes import accumulator
from fastdml.distributed.collectives import GatheredEmbeddings, GatheredValues, Parts, WithSummedGradients
from fastdml.losses.base import Batch, PairLoss
from fastdml.losses.lifted_structure import LiftedStructureLoss
from fastdml.losses.triplet_margin import TripletMarginLoss
from fastdml.miners import Miner
from fastdml.miners.base import Compared
from fastdml.rules import Closeness, PairRule, PairStatistics, RowLosses
from fastdml.rules.base import PairTerms


def divides_by_anchor(loss: nn.Module) -> bool:
    """Whether a loss is one of anchors against candidates, of which every rank can make its own anchors'."""
    if not isinstance(loss, PairLoss) or loss.lists_losses:
        return False
    if type(loss)._reduced is not PairLoss._reduced:  # N-pairs: an anchor and a positive of each class
        return False
    if isinstance(loss, TripletMarginLoss) and loss.swap:  # compares the candidates with each other
        return False
    bounds = loss._bounds()
    return bounds is not None and loss.fuses(*bounds)


def anchor_losses(
    loss: PairLoss, batch: Batch, pairs: Any, parts: Parts, *, among_themselves: bool
) -> dict[str, RowLosses]:
    """The losses of the anchors of all ranks, the same on every rank.

    Args:
        loss: one that :func:`divides_by_anchor`. The gradient of its parameters is summed over the ranks.
        batch: this rank's anchors [n, D] against all candidates [M, D].
        pairs: what a miner chose of them; None: all.
        parts: how the ranks divide the N anchors.
        among_themselves: whether the candidates are the anchors of all ranks, in their order.
    """
    among_all = _LossAmongAll(loss, batch, parts, among_themselves)
    learnt: dict[str, Tensor] = {
        name: value for name, value in among_all.named_parameters() if value.requires_grad
    }
    if learnt:
        summed = WithSummedGradients.apply(parts.group, *learnt.values())
        learnt = dict(zip(learnt, summed, strict=True))
    found = functional_call(among_all, learnt, (batch, pairs))
    return _gathered(found, parts, accumulator(batch.embeddings.dtype))


def mined(miner: nn.Module, batch: Batch, parts: Parts) -> Any:
    """What a miner chooses of this rank's anchors where the candidates are the anchors of all ranks."""
    assert batch.ref_embeddings is not None
    assert batch.ref_labels is not None
    first = sum(parts.counts[: parts.rank])
    if isinstance(miner, Miner):
        compared = _ComparedAmongAll(miner.closeness, *batch[:4])
        compared.first = first
        return miner.choose(compared)
    # a miner of another making would take an anchor for its own positive: it is given the whole batch
    whole = miner(batch.ref_embeddings.detach(), batch.ref_labels)
    end = first + len(batch.embeddings)
    sides = [tuple(whole)] if len(whole) == 3 else [tuple(whole[:2]), tuple(whole[2:])]
    chosen: list[Tensor] = []
    for anchors, *others in sides:
        own = (anchors >= first) & (anchors < end)
        chosen += [anchors[own] - first, *(other[own] for other in others)]
    return tuple(chosen)


class _ComparedAmongAll(Compared):
    """Anchors that stand among the candidates from ``first`` on; none is its own positive."""

    first: int

    def blocks(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        for start, c, positive, negative in super().blocks():
            own = torch.arange(len(c), device=c.device)
            positive[own, own + start + self.first] = False
            yield start, c, positive, negative


class _LossAmongAll(nn.Module):
    """A loss of this rank's anchors that asks what it must of those of other ranks."""

    def __init__(self, loss: PairLoss, batch: Batch, parts: Parts, among_themselves: bool) -> None:
        super().__init__()
        dtype = accumulator(batch.embeddings.dtype)

        def rule(low: float = -math.inf, high: float = math.inf) -> PairRule:
            return _RuleAmongAll(loss.rule(low, high), parts, dtype)

        def of_pairs(
            statistics: PairStatistics, c: Tensor, anchors: Tensor, positives: Tensor, self_pairs: bool
        ) -> Tensor:
            # a positive pair reads the sums of both, of which one may be another rank's
            everyone = _statistics_of_all(statistics, parts, dtype)
            places = anchors + sum(parts.counts[: parts.rank])
            assert isinstance(loss, LiftedStructureLoss)
            return loss._of_pairs(everyone, c, places, positives, among_themselves)

        self.loss = copy.copy(loss)
        # what stands in the copy is called in place of the methods
        vars(self.loss)["rule"] = rule
        if isinstance(loss, LiftedStructureLoss):
            vars(self.loss)["_of_pairs"] = of_pairs

    def forward(self, batch: Batch, pairs: Any) -> dict[str, RowLosses]:
        return self.loss._losses(batch, pairs)


class _RuleAmongAll(PairRule):
    """A rule whose value may depend on the sums of all anchors, such as whether any has a negative."""

    def __init__(self, rule: PairRule, parts: Parts, dtype: torch.dtype) -> None:
        self.rule, self.parts, self.dtype = rule, parts, dtype
        self.counts_duplicates = rule.counts_duplicates  # type: ignore[misc]

    def terms(self, closeness: Closeness) -> PairTerms:
        return self.rule.terms(closeness)

    def unsupported(self, closeness: Closeness, backend: str, dtype: torch.dtype) -> str | None:
        return self.rule.unsupported(closeness, backend, dtype)

    def value(self, statistics: PairStatistics, closeness: Closeness) -> dict[str, RowLosses]:
        everyone = _statistics_of_all(statistics, self.parts, self.dtype)
        return {name: self._own(one) for name, one in self.rule.value(everyone, closeness).items()}

    def _own(self, losses: RowLosses) -> RowLosses:
        if losses.kind == "already_reduced":
            return losses
        count, divisor = losses.count, losses.divisor
        if divisor is not None and self.parts.rank > 0:
            divisor = torch.zeros_like(divisor)  # that of all anchors; divisors of ranks are summed
        own = self.parts.own
        return replace(
            losses, total=own(losses.total), count=None if count is None else own(count), divisor=divisor
        )


def _statistics_of_all(statistics: PairStatistics, parts: Parts, dtype: torch.dtype) -> PairStatistics:
    """Those of the anchors of all ranks; each rank has a part of their gradient."""
    columns = torch.stack([column.to(dtype) for column in statistics], dim=1)
    return PairStatistics(*GatheredEmbeddings.apply(columns, parts, dtype, 1).unbind(1))


def _gathered(found: dict[str, RowLosses], parts: Parts, dtype: torch.dtype) -> dict[str, RowLosses]:
    """The losses of the anchors of all ranks from those of own anchors."""
    by_anchor = [one for one in found.values() if one.kind != "already_reduced"]
    columns = [column for one in by_anchor for column in (one.total, one.count) if column is not None]
    together = torch.stack([column.to(dtype) for column in columns], dim=1)
    everyone = iter(GatheredValues.apply(together, parts).unbind(1))
    result = {}
    for name, one in found.items():
        if one.kind == "already_reduced":
            result[name] = replace(one, total=_first_not_zero(one.total.to(dtype), parts))
            continue
        total, count, divisor = next(everyone), one.count, one.divisor
        if count is not None:
            count = next(everyone).detach()
        if divisor is not None:
            divisor = divisor.detach().to(dtype, copy=True)
            dist.all_reduce(divisor, group=parts.group)
        result[name] = RowLosses(total, count, one.kind, divisor)
    return result


def _first_not_zero(number: Tensor, parts: Parts) -> Tensor:
    """One number that every rank has, or 0 where none of its anchors asks for it; one rank's gradient."""
    one_each = parts._replace(counts=(1,) * len(parts.counts))
    numbers = GatheredValues.apply(number.reshape(1), one_each)
    return numbers.gather(0, (numbers.detach() != 0).to(torch.int8).argmax().reshape(1))
