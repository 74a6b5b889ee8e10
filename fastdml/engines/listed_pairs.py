"""The closeness of listed pairs: the positives, or an index tuple; in memory linear in their number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastdml.engines.sides import Sides, compared_sides
from fastdml.rules import Closeness

GATHERED_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 24}
"""Numbers of embeddings that are gathered at a time."""


def pair_closeness_of(
    closeness: Closeness, embeddings: Tensor, ref_embeddings: Tensor | None, anchors: Tensor, others: Tensor
) -> Tensor:
    """Closeness of listed pairs, differentiable once in the embeddings.

    Args:
        closeness: what pairs are compared by.
        embeddings: [N, D] anchors, of any length; normalised here where the closeness asks for it.
        ref_embeddings: [M, D] candidates; None compares the anchors with each other.
        anchors, others: [T] int64, the pairs as indices of anchors and of candidates, in any order.

    Returns:
        [T], float64 for float64 embeddings, else float32.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        # closeness asks for no labels
        labels = anchors.new_empty(0)
        return listed_closeness(
            compared_sides(closeness, embeddings, labels, ref_embeddings, labels), anchors, others
        )


def listed_closeness(sides: Sides, anchors: Tensor, others: Tensor) -> Tensor:
    """Closeness [T] of listed pairs of rows that are already as they are compared."""
    found: Tensor = _ListedCloseness.apply(
        sides.rows,
        sides.refs,
        sides.squares.detach(),
        sides.others[1].detach(),
        anchors,
        others,
        sides.closeness,
    )
    return found


def add_rows(target: Tensor, index: Tensor, rows: Tensor) -> None:
    """Adds rows [T, D] to the rows ``index`` [T] of a target, every run in the same order."""
    if target.is_cuda:
        target.index_put_(
            (index,), rows, accumulate=True
        )  # sorts, where index_add_ takes the rows as they come
    else:
        target.index_add_(0, index, rows)


def _pieces(rows: Tensor, count: int) -> Iterator[slice]:
    step = max(1, GATHERED_ELEMENTS[rows.device.type] // max(1, rows.shape[1]))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


class _ListedCloseness(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        refs: Tensor | None,
        squares: Tensor,
        ref_squares: Tensor,
        anchors: Tensor,
        others: Tensor,
        closeness: Closeness,
    ) -> Tensor:
        candidates = rows if refs is None else refs
        products = rows.new_empty(len(anchors))
        for at in _pieces(rows, len(anchors)):
            torch.sum(rows[anchors[at]] * candidates[others[at]], dim=1, out=products[at])
        c = closeness.of(products, squares[anchors], ref_squares[others])
        ctx.save_for_backward(rows, refs, anchors, others, c)
        ctx.closeness = closeness
        return c

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        rows, refs, anchors, others, c = ctx.saved_tensors
        closeness: Closeness = ctx.closeness
        candidates = rows if refs is None else refs
        weights = (grads[0] * closeness.slope(c))[:, None]
        grad_rows = torch.zeros_like(rows)
        grad_refs = grad_rows if refs is None else torch.zeros_like(refs)
        lengths_move = not closeness.normalised and closeness.kind != "inner"
        for at in _pieces(rows, len(anchors)):
            ours, theirs, weight = rows[anchors[at]], candidates[others[at]], weights[at]
            # a distance that is not of unit rows also falls with either squared length
            towards = theirs - ours if lengths_move else theirs
            back = ours - theirs if lengths_move else ours
            add_rows(grad_rows, anchors[at], weight * towards)
            add_rows(grad_refs, others[at], weight * back)
        return grad_rows, None if refs is None else grad_refs, None, None, None, None, None
