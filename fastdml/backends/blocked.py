"""The dense form, a block of anchors at a time: plain PyTorch in memory linear in the batch.

Any device, any terms. What runs where a loss has no kernel: terms that a user wrote in PyTorch alone,
distances of rows that are not normalised, exponents beyond float32, a machine without a compiler. Derivatives
are the terms' own weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastdml.backends.dtypes import accumulator
from fastdml.backends.reference import compared_rows
from fastdml.errors import RuleError
from fastdml.rules import Closeness, Extremes, Selection, terms_named
from fastdml.rules.check_terms import where

CPU_BLOCK, DEVICE_BLOCK = 1 << 19, 1 << 24
"""Pairs of a block: about a cache on a CPU, enough to fill a GPU elsewhere."""

_library = torch.library.Library("fastdml", "FRAGMENT")
_library.define(
    "pair_forward_blocked(Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor? ref_labels, "
    "Tensor? own, Tensor? row, str terms, float[] constants, float[] selection, int closeness, bool keep) "
    "-> (Tensor statistics, Tensor rows)"
)
_library.define(
    "pair_backward_blocked(Tensor grad_statistics, Tensor embeddings, Tensor? ref_embeddings, Tensor labels, "
    "Tensor? ref_labels, Tensor? own, Tensor rows, str terms, float[] constants, float[] selection, "
    "int closeness, bool need_anchors, bool need_candidates) -> (Tensor, Tensor)"
)


@dataclass
class _Block:
    """Anchors ``at`` against all candidates: closeness [B, M], and which pairs there are."""

    at: slice
    c: Tensor
    positive: Tensor
    negative: Tensor


class _Pairs:
    """Both sides as they are compared, and the blocks of their pairs."""

    def __init__(
        self,
        closeness: Closeness,
        embeddings: Tensor,
        labels: Tensor,
        ref_embeddings: Tensor | None,
        ref_labels: Tensor | None,
        own: Tensor | None,
    ) -> None:
        acc = accumulator(embeddings.dtype)
        self.closeness = closeness
        self.given = embeddings.to(acc)
        self.rows, self.squares = compared_rows(closeness, self.given)
        self.labels, self.own = labels, own
        if ref_embeddings is None or ref_labels is None:
            self.ref_given, self.refs, self.ref_squares = self.given, self.rows, self.squares
            self.ref_labels = labels
            self.own = torch.arange(len(labels), device=labels.device)
        else:
            self.ref_given = ref_embeddings.to(acc)
            self.refs, self.ref_squares = compared_rows(closeness, self.ref_given)
            self.ref_labels = ref_labels

    def blocks(self) -> Iterator[_Block]:
        count, candidates = len(self.rows), len(self.refs)
        height = max(16, (CPU_BLOCK if self.rows.is_cpu else DEVICE_BLOCK) // max(1, candidates))
        columns = torch.arange(candidates, device=self.rows.device)
        for start in range(0, count, height):
            at = slice(start, min(start + height, count))
            c = self.closeness.of(
                self.rows[at] @ self.refs.T, self.squares[at, None], self.ref_squares[None, :]
            )
            positive = self.labels[at, None] == self.ref_labels[None, :]
            negative = ~positive
            if self.own is not None:
                other = self.own[at, None] != columns[None, :]
                positive, negative = positive & other, negative & other
            yield _Block(at, c, positive, negative)


def _outermost(c: Tensor, mask: Tensor, largest: bool) -> Tensor:
    if largest:
        return c.masked_fill(~mask, -math.inf).amax(dim=1)
    return c.masked_fill(~mask, math.inf).amin(dim=1)


def _checked(function: Callable[..., Any], c: Tensor, row: Tensor, count: int = 2) -> tuple[Tensor, ...]:
    """What a function of the terms gives for pairs c [B, M] and numbers of their anchors row [B]."""
    given = function(c, row[:, None])
    found = (given,) if isinstance(given, Tensor) else given
    if len(found) != count or any(values.shape != c.shape for values in found):
        shapes = ", ".join(str(list(values.shape)) for values in found)
        wanted = f"{count} of the shape of c, {list(c.shape)}"
        raise RuleError(f"tensors that {where(function)} returns must be {wanted}, got {shapes}")
    return found


def _sum(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, torch.zeros_like(values)).sum(dim=1)


def _forward(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    ref_labels: Tensor | None,
    own: Tensor | None,
    row: Tensor | None,
    terms: str,
    constants: Sequence[float],
    selection: Sequence[float],
    closeness: int,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """Statistics [9, N], the ninth that of the closest positive, and rows [4, N], in the input's order."""
    made, chosen = terms_named(terms, constants), Selection.from_constants(list(selection))
    pairs = _Pairs(Closeness.of_code(closeness), embeddings, labels, ref_embeddings, ref_labels, own)
    count = len(embeddings)
    statistics = pairs.rows.new_empty(9, count)
    rows = pairs.rows.new_empty(4, count)
    row = pairs.rows.new_zeros(count) if row is None else row
    with torch.autocast(embeddings.device.type, enabled=False):
        for block in pairs.blocks():
            positive = block.positive & (block.c < chosen.duplicate) if chosen.selects else block.positive
            least, most = _outermost(block.c, positive, False), _outermost(block.c, block.negative, True)
            most_positive = _outermost(block.c, positive, True)
            extremes = Extremes(least, most_positive, most)
            thresholds = chosen.negative_threshold(least), chosen.positive_threshold(most)
            positive, negative = _kept(block, chosen, *thresholds)
            negative_row = made.negative_row(row[block.at], extremes)
            pushed, counted = _checked(made.negative_terms, block.c, negative_row)
            negative_sum = _sum(pushed, negative)
            positive_row = made.positive_row(row[block.at], extremes, negative_sum, negative_row)
            pulled, second = _checked(made.positive_terms, block.c, positive_row)
            numbers = (
                negative_sum, _sum(counted, negative), _sum(pulled, positive), _sum(second, positive),
                most, least, positive.sum(dim=1), negative.sum(dim=1), most_positive,
            )  # fmt: skip
            for at, value in enumerate(numbers):
                statistics[at, block.at] = value
            for at, value in enumerate((*thresholds, negative_row, positive_row)):
                rows[at, block.at] = value
    poison = (pairs.given * 0).sum(dim=1) + (pairs.ref_given * 0).sum()
    statistics[0] += poison
    statistics[2] += poison
    return statistics, rows


def _kept(
    block: _Block, selection: Selection, negative_threshold: Tensor, positive_threshold: Tensor
) -> tuple[Tensor, Tensor]:
    if not selection.selects:
        return block.positive, block.negative
    return (
        block.positive & (block.c < selection.duplicate) & (block.c < positive_threshold[:, None]),
        block.negative & (block.c > negative_threshold[:, None]),
    )


def _backward(
    grad_statistics: Tensor,
    embeddings: Tensor,
    ref_embeddings: Tensor | None,
    labels: Tensor,
    ref_labels: Tensor | None,
    own: Tensor | None,
    rows: Tensor,
    terms: str,
    constants: Sequence[float],
    selection: Sequence[float],
    closeness: int,
    need_anchors: bool,
    need_candidates: bool,
) -> tuple[Tensor, Tensor]:
    made, chosen = terms_named(terms, constants), Selection.from_constants(list(selection))
    pairs = _Pairs(Closeness.of_code(closeness), embeddings, labels, ref_embeddings, ref_labels, own)
    poison = (pairs.given * 0).sum(dim=1) + (pairs.ref_given * 0).sum()
    scales = grad_statistics + poison
    self_pairs = ref_embeddings is None
    grads = torch.zeros_like(pairs.rows)
    ref_grads = grads if self_pairs else torch.zeros_like(pairs.refs)
    with torch.autocast(embeddings.device.type, enabled=False):
        for block in pairs.blocks():
            negative_threshold, positive_threshold, negative_row, positive_row = rows[:, block.at]
            positive, negative = _kept(block, chosen, negative_threshold, positive_threshold)
            push, pull, second = scales[:, block.at, None]
            (weight,) = _checked(made.negative_weight, block.c, negative_row, 1)
            weights = torch.where(negative, weight * push, 0)
            first_weight, second_weight = _checked(made.positive_weights, block.c, positive_row)
            weights = torch.where(positive, first_weight * pull + second_weight * second, weights)
            weights = weights * pairs.closeness.slope(block.c)
            pairs.closeness.add_gradients(
                weights, pairs.rows[block.at], pairs.refs,
                grads[block.at] if need_anchors else None,
                ref_grads if need_candidates or self_pairs else None,
            )  # fmt: skip
    nothing = grads.new_empty(0, grads.shape[1])
    found = _through_normalisation(pairs, grads, pairs.given) if need_anchors else nothing
    if self_pairs or not need_candidates:
        return found, grads.new_empty(0, grads.shape[1])
    return found, _through_normalisation(pairs, ref_grads, pairs.ref_given)


def _through_normalisation(pairs: _Pairs, grads: Tensor, given: Tensor) -> Tensor:
    """Gradients of the rows as given, from those of the rows as compared."""
    if not pairs.closeness.normalised:
        return grads.clone()
    norms = given.norm(dim=1, keepdim=True)
    units = given / norms.clamp_min(1e-12)
    along = (grads * units).sum(dim=1, keepdim=True)
    return (grads - torch.where(norms < 1e-12, 0, along) * units) / norms.clamp_min(1e-12)


@torch.library.register_fake("fastdml::pair_forward_blocked", lib=_library)
def _(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None, ref_labels: Tensor | None,
    own: Tensor | None, row: Tensor | None, terms: str, constants: Sequence[float],
    selection: Sequence[float], closeness: int, keep: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    acc = accumulator(embeddings.dtype)
    return (
        embeddings.new_empty(9, len(embeddings), dtype=acc),
        embeddings.new_empty(4, len(embeddings), dtype=acc),
    )


@torch.library.register_fake("fastdml::pair_backward_blocked", lib=_library)
def _(
    grad_statistics: Tensor, embeddings: Tensor, ref_embeddings: Tensor | None, labels: Tensor,
    ref_labels: Tensor | None, own: Tensor | None, rows: Tensor, terms: str, constants: Sequence[float],
    selection: Sequence[float], closeness: int, need_anchors: bool, need_candidates: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    acc = accumulator(embeddings.dtype)
    width = embeddings.shape[1]
    candidates = 0 if ref_embeddings is None or not need_candidates else len(ref_embeddings)
    return (
        embeddings.new_empty(len(embeddings) if need_anchors else 0, width, dtype=acc),
        embeddings.new_empty(candidates, width, dtype=acc),
    )


_library.impl("pair_forward_blocked", _forward, "CompositeExplicitAutograd")
_library.impl("pair_backward_blocked", _backward, "CompositeExplicitAutograd")
