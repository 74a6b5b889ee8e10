"""What every pair loss shares: the call, distances, reducers and index tuples of pytorch-metric-learning."""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import Self

from fastdml import reducers
from fastdml.distances import Distance, LpDistance, closeness_of
from fastdml.engines.pair import pair_losses
from fastdml.errors import InputError
from fastdml.functional import check_own, check_pairs
from fastdml.losses.listed import ListedPairs, ListedTriplets, all_pairs, listed_statistics, listed_tuple
from fastdml.miners import Mined, MinedPairs
from fastdml.reducers import (
    DoNothingReducer,
    ForeignReducer,
    MeanReducer,
    MultipleReducers,
    Reducer,
    as_reducer,
)
from fastdml.rules import EVERYTHING, Closeness, PairRule, RowLosses, Selection


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


class PairLoss(nn.Module):
    """A loss of pairs or triplets, fused where its rule has a kernel, in memory linear in the batch.

    Args:
        distance: what pairs are compared by, one of :mod:`fastdml.distances` or of pytorch-metric-learning;
            None is the default of the loss.
        reducer: from the losses to one number, one of :mod:`fastdml.reducers` or of pytorch-metric-learning;
            or "mean", "sum", or "none" for the sum of every anchor's losses, [N]. None is the default of the
            loss.
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
                f"distance of {type(self).__name__} must be a cosine similarity, "
                f"got {type(self.distance).__name__}"
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
        loss = self._reduced(batch, indices_tuple)
        if self.embedding_regularizer is not None and isinstance(loss, Tensor):
            loss = loss + self.embedding_regularizer(embeddings) * self.embedding_reg_weight
        return loss

    def _reduced(self, batch: Batch, pairs: Any) -> Any:
        reducer = self.reducer
        if isinstance(reducer, DoNothingReducer | ForeignReducer):
            described = {name: single.described() for name, single in self._singles(batch, pairs).items()}
            if isinstance(reducer, DoNothingReducer):
                return described
            parts = (
                reducer.reducer({name: one}, batch.embeddings, batch.labels)
                for name, one in described.items()
            )
            return sum(parts)
        losses = self._losses(batch, pairs)
        reduced = {name: one.total.sum() for name, one in losses.items() if one.kind == "already_reduced"}
        by_anchor = {name: one for name, one in losses.items() if name not in reduced}
        if self.returns_rows:
            return sum(one.total for one in by_anchor.values())
        parts = (reducer.of(name).reduce(one, batch.labels) for name, one in by_anchor.items())
        return sum(parts) + sum(reduced.values())

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

    def extra_repr(self) -> str:
        shown = []
        for name in inspect.signature(type(self).__init__).parameters:
            value = getattr(self, name, None)
            if isinstance(value, int | float | str):
                shown.append(f"{name}={value}")
        return ", ".join(shown)
