"""From the losses of a batch to one number, with the names and values of pytorch-metric-learning 2.9.

A loss hands over its losses gathered by anchor (:class:`fastdml.rules.RowLosses`), so that none of these
lists pairs. Reducers of that library are taken too wherever one of these is: those with a twin here are
replaced by it, any other is called as there, with the losses of single pairs, which have to be listed for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastdml.errors import InputError
from fastdml.rules import RowLosses


class Reducer(nn.Module):
    """Reduces the losses of one kind to a scalar; only those strictly between ``low`` and ``high`` count."""

    low: float = -math.inf
    high: float = math.inf

    def reduce(self, losses: RowLosses, labels: Tensor) -> Tensor:
        """The scalar; ``labels`` [N] are those of the anchors."""
        raise NotImplementedError

    def of(self, name: str) -> Reducer:
        """The reducer of the losses of that name, where a loss has several kinds."""
        return self


def _mean(losses: RowLosses, weights: Tensor | None = None) -> Tensor:
    total = losses.total if weights is None else losses.total * weights
    if losses.count is None:
        return total.mean() if total.shape[0] else total.sum()
    return total.sum() / losses.count.sum().clamp_min(1)


class MeanReducer(Reducer):
    """Mean of all losses, of anchors, pairs or triplets."""

    def reduce(self, losses: RowLosses, labels: Tensor) -> Tensor:
        return _mean(losses)


class SumReducer(Reducer):
    """Sum of all losses."""

    def reduce(self, losses: RowLosses, labels: Tensor) -> Tensor:
        return losses.total.sum()


class ThresholdReducer(Reducer):
    """Mean of the losses strictly between two bounds, 0 where there is none.

    Args:
        low: lower bound, None for none.
        high: upper bound, None for none. At least one must be given.
    """

    def __init__(self, low: float | None = None, high: float | None = None) -> None:
        super().__init__()
        if low is None and high is None:
            raise InputError("low or high must be given, got None for both")
        self.low = -math.inf if low is None else float(low)
        self.high = math.inf if high is None else float(high)

    def reduce(self, losses: RowLosses, labels: Tensor) -> Tensor:
        if losses.count is not None and losses.kind != "element":
            return _mean(losses)  # the losses of pairs were counted with the bounds
        counts = (losses.total > self.low) & (losses.total < self.high)
        # NaN counts: it must not be taken for a loss outside the bounds
        counts = counts | losses.total.isnan()
        if losses.count is not None:
            counts = counts & (losses.count > 0)
        total = torch.where(counts, losses.total, torch.zeros_like(losses.total))
        return total.sum() / counts.sum().clamp_min(1)

    def extra_repr(self) -> str:
        return f"low={self.low}, high={self.high}"


class AvgNonZeroReducer(ThresholdReducer):
    """Mean of the losses above 0, 0 where there is none."""

    def __init__(self) -> None:
        super().__init__(low=0)

    def extra_repr(self) -> str:
        return ""


class ClassWeightedReducer(Reducer):
    """Mean of the losses, each times the weight of its anchor's class.

    Args:
        weights: [classes], indexed by label.
    """

    weights: Tensor

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", torch.as_tensor(weights), persistent=False)

    def reduce(self, losses: RowLosses, labels: Tensor) -> Tensor:
        weights = self.weights.to(losses.total.device, losses.total.dtype)
        return _mean(losses, weights[labels])


class PerAnchorReducer(Reducer):
    """Averages the pairs of every anchor first, 0 where it has none, then reduces the anchors.

    Args:
        reducer: of the anchors; None is the mean.
    """

    def __init__(self, reducer: Any = None) -> None:
        super().__init__()
        self.reducer = MeanReducer() if reducer is None else as_reducer(reducer)

    def reduce(self, losses: RowLosses, labels: Tensor) -> Tensor:
        if losses.kind == "element":
            found: Tensor = self.reducer.reduce(losses, labels)
            return found
        if losses.kind == "triplet":
            raise InputError("reducer must be another than PerAnchorReducer for losses of triplets")
        total = losses.total
        if losses.count is not None:
            total = torch.where(losses.count > 0, total / losses.count.clamp_min(1), torch.zeros_like(total))
        result: Tensor = self.reducer.reduce(RowLosses(total), labels)
        return result


class DivisorReducer(Reducer):
    """The sum over what the loss says to divide by, 0 where that is 0; for the margin loss."""

    def reduce(self, losses: RowLosses, labels: Tensor) -> Tensor:
        if losses.divisor is None:
            raise InputError("reducer must be another than DivisorReducer for a loss that gives no divisor")
        total = losses.total.sum()
        return torch.where(losses.divisor == 0, total * 0, total / losses.divisor.clamp_min(1))


class DoNothingReducer(Reducer):
    """Returns what pytorch-metric-learning's returns: every single loss with its indices, by name."""


class MultipleReducers(Reducer):
    """A reducer for each kind of loss, the results summed.

    Args:
        reducers: by the names of the losses, such as "pos_loss" and "neg_loss".
        default_reducer: for the names that are not there; None is the mean.
    """

    def __init__(self, reducers: Mapping[str, Any], default_reducer: Any = None) -> None:
        super().__init__()
        self.reducers = nn.ModuleDict({name: as_reducer(reducer) for name, reducer in reducers.items()})
        self.default_reducer = MeanReducer() if default_reducer is None else as_reducer(default_reducer)

    def of(self, name: str) -> Reducer:
        chosen = self.reducers[name] if name in self.reducers else self.default_reducer  # noqa: SIM401  no get
        assert isinstance(chosen, Reducer)
        return chosen


class ForeignReducer(Reducer):
    """A reducer of pytorch-metric-learning, or one written like its: called with every single loss."""

    def __init__(self, reducer: Any) -> None:
        super().__init__()
        self.reducer = reducer


def as_reducer(reducer: Any) -> Reducer:
    """One of these reducers, from one of these, its twin in pytorch-metric-learning, or a callable like its.

    Raises:
        InputError: anything else.
    """
    if isinstance(reducer, Reducer):
        return reducer
    kind = type(reducer).__name__
    if type(reducer).__module__.startswith("pytorch_metric_learning."):
        if kind in ("MeanReducer", "SumReducer", "AvgNonZeroReducer", "DivisorReducer", "DoNothingReducer"):
            twin: Reducer = globals()[kind]()
            return twin
        if kind == "ThresholdReducer":
            return ThresholdReducer(reducer.low, reducer.high)
        if kind == "ClassWeightedReducer":
            return ClassWeightedReducer(reducer.weights)
        if kind == "MultipleReducers":
            return MultipleReducers(dict(reducer.reducers.items()), reducer.default_reducer)
        if kind == "PerAnchorReducer" and reducer.aggregation_func.__module__.startswith(
            "pytorch_metric_learning."
        ):
            return PerAnchorReducer(reducer.reducer)
    if callable(reducer) and not isinstance(reducer, type):
        return ForeignReducer(reducer)
    raise InputError(
        f"reducer must be a reducer of fastdml or pytorch-metric-learning or None, got {reducer!r}"
    )
