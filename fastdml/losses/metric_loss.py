"""What every loss shares: distances, reducers, presets and regularisers of pytorch-metric-learning."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import Self

from fastdml import reducers
from fastdml.distances import Distance, LpDistance, closeness_of
from fastdml.errors import InputError
from fastdml.reducers import DoNothingReducer, ForeignReducer, MeanReducer, Reducer, as_reducer
from fastdml.rules import Closeness, RowLosses

DISTANCES = {
    "inner": "CosineSimilarity() or DotProductSimilarity()",
    "euclidean": "LpDistance()",
    "squared": "LpDistance(power=2)",
}
"""What has each kind of closeness."""


class SingleLosses(NamedTuple):
    """Losses of one kind, each by itself: of anchors, pairs or triplets, with the indices of each.

    Or "already_reduced": one number without indices, which no reducer changes.
    """

    losses: Tensor
    indices: tuple[Tensor, ...]
    kind: str
    divisor: Tensor | None = None

    def by_anchor(self, count: int, low: float, high: float) -> RowLosses:
        """Sums and counts of those strictly between the bounds."""
        if not self.indices:
            return RowLosses(self.losses, kind="already_reduced")
        counts = ((self.losses > low) & (self.losses < high)) | self.losses.isnan()
        kept = torch.where(counts, self.losses, torch.zeros_like(self.losses))
        zeros = kept.new_zeros(count)
        anchors = self.indices[0]
        total, number = zeros.index_add(0, anchors, kept), zeros.index_add(0, anchors, counts.to(zeros.dtype))
        return RowLosses(total, number, self.kind, self.divisor)  # type: ignore[arg-type]

    def described(self) -> dict[str, Any]:
        """As pytorch-metric-learning hands it to a reducer."""
        indices = None if not self.indices else self.indices[0] if self.kind == "element" else self.indices
        found = {"losses": self.losses, "indices": indices, "reduction_type": self.kind}
        return found if self.divisor is None else {**found, "divisor": self.divisor}


class MetricLoss(nn.Module):
    """A loss of embeddings and labels, reduced to one number.

    Args:
        distance: what is compared by, one of :mod:`fastdml.distances` or of pytorch-metric-learning; None is
            the default of the loss.
        reducer: from the losses to one number, one of :mod:`fastdml.reducers` or of pytorch-metric-learning;
            or "mean", "sum", or "none" for the losses of every anchor, [N]. None is the default of the loss.
        embedding_regularizer: called with the embeddings; what it returns, a scalar, is added.
        embedding_reg_weight: what that is multiplied with.

    Raises:
        InputError: a ``distance`` or ``reducer`` that cannot be honoured.
    """

    default_distance: ClassVar[Distance] = LpDistance()
    default_reducer: ClassVar[type[Reducer]] = MeanReducer
    accepts: ClassVar[tuple[str, ...]] = ("inner", "euclidean", "squared")
    """The kinds of closeness that the loss is defined for."""

    def __init__(
        self,
        *,
        distance: Any = None,
        reducer: Any = None,
        embedding_regularizer: Callable[[Tensor], Tensor] | None = None,
        embedding_reg_weight: float = 1,
    ) -> None:
        super().__init__()
        self.distance = self.default_distance if distance is None else distance
        self.closeness: Closeness = closeness_of(self.distance)
        if self.closeness.kind not in self.accepts:
            raise InputError(
                f"distance of {type(self).__name__} must be "
                f"{' or '.join(DISTANCES[kind] for kind in self.accepts)}, got {self.distance!r}"
            )
        self.returns_rows = isinstance(reducer, str) and reducer == "none"
        if isinstance(reducer, str):
            named = {"mean": "MeanReducer", "sum": "SumReducer", "none": "SumReducer"}
            if reducer not in named:
                raise InputError(
                    f"reducer must be one of {', '.join(named)} or a reducer object, got {reducer!r}"
                )
            reducer = getattr(reducers, named[reducer])()
        self.reducer: Reducer = self.default_reducer() if reducer is None else as_reducer(reducer)
        self.embedding_regularizer = embedding_regularizer
        self.embedding_reg_weight = embedding_reg_weight

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"pml": {}}
    """Arguments of the loss as somebody published it, by name; "pml" is pytorch-metric-learning 2.9."""

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """The loss as somebody published it.

        Args:
            name: one of ``presets``.
            changes: arguments of the class that differ from the preset.

        Raises:
            InputError: no such preset.
        """
        if name not in cls.presets:
            raise InputError(f"preset must be one of {', '.join(cls.presets)}, got {name!r}")
        return cls(**{**cls.presets[name], **changes})

    def reduced(self, losses: Mapping[str, RowLosses], labels: Tensor) -> Any:
        """One number from the losses of every kind, [N] for reducer "none"; ``labels`` are the anchors'."""
        done = [one.total.sum() for one in losses.values() if one.kind == "already_reduced"]
        by_anchor = {name: one for name, one in losses.items() if one.kind != "already_reduced"}
        if self.returns_rows:
            return _sum([one.total for one in by_anchor.values()])
        return _sum([self.reducer.of(name).reduce(one, labels) for name, one in by_anchor.items()] + done)

    @property
    def lists_losses(self) -> bool:
        """Whether the reducer takes every single loss: one that returns them, or one of another making."""
        return isinstance(self.reducer, DoNothingReducer | ForeignReducer)

    def reduced_singly(self, singles: Mapping[str, SingleLosses], embeddings: Tensor, labels: Tensor) -> Any:
        """What a reducer that takes every single loss makes of them."""
        described = {name: single.described() for name, single in singles.items()}
        if isinstance(self.reducer, DoNothingReducer):
            return described
        assert isinstance(self.reducer, ForeignReducer)
        reduce = self.reducer.reducer
        return _sum([reduce({name: one}, embeddings, labels) for name, one in described.items()])

    def regularised(self, loss: Any, embeddings: Tensor) -> Any:
        """The loss with what the embedding regulariser adds."""
        if self.embedding_regularizer is None or not isinstance(loss, Tensor):
            return loss
        return loss + self.embedding_regularizer(embeddings) * self.embedding_reg_weight

    def extra_repr(self) -> str:
        names: list[str] = []
        for kind in type(self).__mro__:
            if issubclass(kind, MetricLoss) and kind is not MetricLoss and "__init__" in vars(kind):
                names += inspect.signature(kind.__init__).parameters
        values = {name: getattr(self, name, None) for name in names}
        shown = [f"{name}={value}" for name, value in values.items() if isinstance(value, int | float | str)]
        return ", ".join(shown)


def _sum(values: list[Any]) -> Any:
    """Their sum, or the only one as it is; 0 of none. ``sum`` would add each to a number, at a launch."""
    return sum(values[1:], values[0]) if values else 0
