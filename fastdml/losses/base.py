"""What every pair loss shares: the call, distance, reducers and index tuples of pytorch-metric-learning."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastdml.backends import reference
from fastdml.distances import check_distance
from fastdml.engines.pair import pair_losses
from fastdml.errors import InputError
from fastdml.functional import check_pairs, reduce_losses
from fastdml.miners import MinedPairs
from fastdml.rules import PairRule

REDUCTIONS = ("mean", "sum", "none")
Reducer = Callable[[dict[str, Any], Tensor, Tensor], Any]


class PairLoss(nn.Module):
    """A pair loss on cosine similarity.

    Args:
        reduction: "mean" over all anchors, "sum", or "none" for the losses [N].
        distance: None or pytorch-metric-learning's ``CosineSimilarity()``.
        reducer: a reducer of pytorch-metric-learning, called with the loss of every anchor in place of
            ``reduction``; None uses ``reduction``.

    Raises:
        InputError: a ``reduction``, ``distance`` or ``reducer`` that cannot be honoured.
    """

    def __init__(self, reduction: str = "mean", distance: Any = None, reducer: Reducer | None = None) -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise InputError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        check_distance(distance)
        if reducer is not None and not callable(reducer):
            raise InputError(f"reducer must be a reducer of pytorch-metric-learning or None, got {reducer!r}")
        self.reduction = reduction
        self.reducer = reducer

    @property
    @abstractmethod
    def rule(self) -> PairRule:
        """The rule that the engine runs."""

    @abstractmethod
    def mined_rule(self, pairs: MinedPairs) -> PairRule | None:
        """The rule with the miner's selection fused in, or None where the rule cannot take it in."""

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: Any = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Any:
        """The loss of a batch.

        Args:
            embeddings: [N, D], float32, bfloat16, float16 or float64; normalised inside.
            labels: [N], any integer dtype, on the device of the embeddings.
            indices_tuple: what a miner returned: a lazy tuple of :mod:`fastdml.miners`, which is fused into
                the loss; or index tensors, anchors and positives and anchors and negatives, or triplets.
            ref_emb: [M, D] candidates to compare with instead of the batch itself; then no anchor is left out
                as its own candidate, also where ``ref_labels`` is ``labels``.
            ref_labels: [M].

        Returns:
            A scalar, or [N] for reduction "none", or what ``reducer`` returns.

        Raises:
            InputError: an argument of the wrong shape, dtype or device.
            BackendError: the backend that was asked for cannot run here.
        """
        labels, ref_labels = check_pairs(embeddings, labels, ref_emb, ref_labels)
        losses = self._losses(embeddings, labels, indices_tuple, ref_emb, ref_labels)
        if self.reducer is None:
            return reduce_losses(losses, self.reduction)
        described = {"losses": losses, "indices": torch.arange(len(losses), device=losses.device)}
        return self.reducer({"loss": {**described, "reduction_type": "element"}}, embeddings, labels)

    def _losses(
        self,
        embeddings: Tensor,
        labels: Tensor,
        pairs: Any,
        ref_embeddings: Tensor | None,
        ref_labels: Tensor | None,
    ) -> Tensor:
        if pairs is None:
            return pair_losses(self.rule, embeddings, labels, ref_embeddings, ref_labels)
        if isinstance(pairs, MinedPairs) and pairs.mined_on(embeddings, ref_embeddings):
            rule = self.mined_rule(pairs)
            if rule is not None:
                return pair_losses(rule, embeddings, pairs.labels, ref_embeddings, pairs.ref_labels)
        candidates = len(embeddings) if ref_embeddings is None else len(ref_embeddings)
        masks = masks_of_indices(pairs, len(embeddings), candidates, embeddings.device)
        return reference.pair_losses(self.rule, embeddings, labels, ref_embeddings, ref_labels, masks)


def masks_of_indices(
    pairs: Any, anchors: int, candidates: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Bool masks [N, M] of listed pairs.

    Args:
        pairs: index tensors (anchors, positives, anchors, negatives) or (anchors, positives, negatives).

    Raises:
        InputError: another number of tensors, lengths that differ, an index out of range (checked on the CPU
            only: reading indices back from a GPU would stall it).
    """
    if not isinstance(pairs, tuple | list | MinedPairs) or len(pairs) not in (3, 4):
        raise InputError(f"indices_tuple must hold 3 or 4 index tensors, got {type(pairs).__name__}")
    indices = [torch.as_tensor(index, device=device) for index in pairs]
    if len(indices) == 3:
        indices = [indices[0], indices[1], indices[0], indices[2]]
    masks = []
    for side, (rows, columns) in {"positive": indices[:2], "negative": indices[2:]}.items():
        if rows.ndim != 1 or rows.shape != columns.shape:
            raise InputError(
                f"indices_tuple must hold {side} pairs as two tensors of one length, got {list(rows.shape)} "
                f"and {list(columns.shape)}"
            )
        for index, bound in ((rows, anchors), (columns, candidates)):
            if device.type == "cpu" and len(index) and (int(index.min()) < 0 or int(index.max()) >= bound):
                raise InputError(
                    f"indices_tuple must hold {side} indices from 0 to {bound - 1}, "
                    f"got {int(index.min())} to {int(index.max())}"
                )
        mask = torch.zeros(anchors, candidates, dtype=torch.bool, device=device)
        mask[rows.long(), columns.long()] = True
        masks.append(mask)
    return masks[0], masks[1]
