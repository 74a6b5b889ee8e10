"""How close two embeddings are: one scale for similarities and distances, on which larger means closer.

A similarity is its own closeness, a distance counts negatively. On this scale every pair loss has one form,
and ``margin(x, y)`` of pytorch-metric-learning is ``y - x`` whatever the distance.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Kind = Literal["inner", "euclidean", "squared"]
CODES: dict[str, int] = {"inner": 0, "euclidean": 1, "squared": 2}
"""What the kernels know each kind by."""


class Closeness(NamedTuple):
    """A distance or similarity, and whether rows are scaled to length one first.

    ``inner`` is ``<x, y>``, ``euclidean`` ``-|x - y|``, ``squared`` ``-|x - y|^2``.
    """

    kind: Kind = "inner"
    normalised: bool = True

    @property
    def code(self) -> int:
        """What the operators know it by: the code of the kind, plus 4 where rows are not normalised."""
        return CODES[self.kind] + (0 if self.normalised else 4)

    @classmethod
    def of_code(cls, code: int) -> Closeness:
        """The inverse of ``code``."""
        kinds: dict[int, Kind] = {0: "inner", 1: "euclidean", 2: "squared"}
        return cls(kinds[code % 4], code < 4)

    @property
    def sign(self) -> float:
        """The closeness of a margin ``m`` that is given in the distance's own units is ``sign * m``."""
        return 1.0 if self.kind == "inner" else -1.0

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest closeness that two rows can have."""
        if not self.normalised:
            return -math.inf, math.inf if self.kind == "inner" else 0.0
        return {"inner": (-1.0, 1.0), "euclidean": (-2.0, 0.0), "squared": (-4.0, 0.0)}[self.kind]

    def of(self, products: Tensor, squares: Tensor, ref_squares: Tensor) -> Tensor:
        """Closeness from inner products and squared lengths of the compared rows, which broadcast.

        The gradient of a Euclidean distance of 0 is 0.
        """
        if self.kind == "inner":
            return products
        squared = (squares + ref_squares - 2 * products).clamp_min(0)
        if self.kind == "squared":
            return -squared
        apart = squared != 0  # NaN is apart
        return -torch.where(apart, torch.where(apart, squared, 1).sqrt(), 0)

    def slope(self, closeness: Tensor) -> Tensor:
        """Derivative of the closeness by the inner product; by either squared length it is ``-slope / 2``."""
        if self.kind == "inner":
            return torch.ones_like(closeness)
        if self.kind == "squared":
            return torch.full_like(closeness, 2.0).masked_fill(closeness == 0, 0.0)
        apart = closeness != 0
        return torch.where(apart, -1 / torch.where(apart, closeness, -1), 0)

    def add_gradients(
        self, weights: Tensor, rows: Tensor, refs: Tensor, grad_rows: Tensor | None, grad_refs: Tensor | None
    ) -> None:
        """Adds what the weights of a block of pairs say to the gradients of its rows.

        Args:
            weights: [B, M], gradients by the inner products.
            rows: [B, D] as they are compared.
            refs: [M, D] likewise.
            grad_rows: [B, D], or None: not needed.
            grad_refs: [M, D], or None.
        """
        moves = not self.normalised and self.kind != "inner"
        if grad_rows is not None:
            grad_rows.addmm_(weights, refs)
            if (
                moves
            ):  # the closeness falls with either squared length, half as fast as it rises with the product
                grad_rows -= weights.sum(dim=1, keepdim=True) * rows
        if grad_refs is not None:
            grad_refs.addmm_(weights.T, rows)
            if moves:
                grad_refs -= weights.sum(dim=0)[:, None] * refs


COSINE = Closeness()
