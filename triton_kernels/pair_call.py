"""What one call of the pair engine is about, as its kernels take it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from fastdml.rules.closeness import Closeness
from fastdml.rules.selection import Selection
from fastdml.triton_kernels.closeness import INNER
from fastdml.triton_kernels.rules import PairTermsKernels, terms_named


class PairCall(NamedTuple):
    """What every kernel of a call is given: constants, and what it is compiled for."""

    terms: PairTermsKernels
    p: tuple[float, ...]
    """The constants of the terms."""
    selection: Selection
    closeness: int
    """Code of the closeness."""
    precision: str
    """What ``tl.dot`` does with float32: "ieee" or "tf32"."""

    @classmethod
    def of(
        cls,
        terms: str,
        constants: Sequence[float],
        selection: Sequence[float],
        closeness: int,
        precision: str,
    ) -> PairCall:
        """From the arguments of the operators."""
        if not Closeness.of_code(closeness).normalised:
            raise ValueError(f"closeness must be of rows that are normalised on triton, got code {closeness}")
        chosen = Selection.from_constants(list(selection))
        return cls(terms_named(terms), tuple(constants), chosen, closeness, precision)

    @property
    def limits(self) -> tuple[float, float, float]:
        """Thresholds of the selection: of the negatives, of the positives, of copies."""
        return self.selection.negative, self.selection.positive, self.selection.duplicate

    @property
    def light(self) -> bool:
        """Whether what pairs add takes few registers."""
        return self.terms.light and self.closeness == INNER.value

    def compared(self) -> dict[str, Any]:
        """Compile-time arguments of every kernel that compares pairs."""
        return {"SELECTS": self.selection.selects, "KIND": self.closeness, "PRECISION": self.precision}

    def negative_sums(self) -> dict[str, Any]:
        """Compile-time arguments of the sweep over the negatives."""
        return {
            "NEGATIVE_TERMS": self.terms.negative_terms, "NEGATIVE_WEIGHT": self.terms.negative_weight,
            "RELATIVE": self.selection.relative, "SECOND": self.terms.negative_second,
        } | self.compared()  # fmt: skip

    def positive_sums(self) -> dict[str, Any]:
        """Compile-time arguments of the sweep over the positives."""
        return {
            "POSITIVE_ROW": self.terms.positive_row, "POSITIVE_TERMS": self.terms.positive_terms,
            "POSITIVE_WEIGHTS": self.terms.positive_weights, "RELATIVE": self.selection.relative,
            "READS_LEAST": self.terms.reads_least,
        } | self.compared()  # fmt: skip

    def negative_weights(self) -> dict[str, Any]:
        """Compile-time arguments of what weighs negatives in the backward."""
        return {"NEGATIVE_WEIGHT": self.terms.negative_weight} | self.compared()

    def positive_weights(self) -> dict[str, Any]:
        """Compile-time arguments of what weighs positives in the backward."""
        weights = {"POSITIVE_WEIGHTS": self.terms.positive_weights, "SECOND": self.terms.positive_second}
        return weights | self.compared()

    def weights(self) -> dict[str, Any]:
        """Compile-time arguments of what weighs both."""
        return self.negative_weights() | self.positive_weights()


class Side(NamedTuple):
    """Anchors or candidates, sorted by label."""

    units: Tensor
    """[n, D], rows of length one."""
    squares: Tensor | None
    """[n], float32: squared lengths of ``units``; None where inner products are the closeness."""
    spans: Tensor
    """[3, n], int32: start and end of the rows of the same label on the other side; of anchors, then
    themselves among the candidates, or -1."""
