"""Terms that a user writes, in PyTorch and in Triton, read all that terms can read and take no flag."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import triton
import triton.language as tl
from interpreted_pairs import FORMS, check, random_batch, use_form
from pair_cases import EUCLIDEAN, MINED, Case
from torch import Tensor

import fastdml
from fastdml.rules import (
    EVERYTHING,
    Closeness,
    Extremes,
    PairRule,
    PairStatistics,
    PairTerms,
    RowLosses,
    Selection,
    element,
    register,
)
from fastdml.triton_kernels.rules import PAIR_TERMS, PairTermsKernels

# numpy warns of what a select drops
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.usefixtures("poisoned_memory"),
]


@register
@dataclass(frozen=True)
class Cubic(PairTerms):
    """``scale (c + row)^3`` and ``(c - row)^3``, ``row`` of the positives the sum of what an anchor has."""

    scale: float

    name: ClassVar[str] = "cubic"
    reads_least: ClassVar[bool] = True

    def negative_terms(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        return self.scale * (c + row) ** 3, c

    def negative_weight(self, c: Tensor, row: Tensor) -> Tensor:
        return 3 * self.scale * (c + row) ** 2

    def positive_row(
        self, row: Tensor, extremes: Extremes, negative_sum: Tensor, negative_row: Tensor
    ) -> Tensor:
        most = extremes.most_negative
        assert most is not None
        least = extremes.least_positive.clamp(-1, 1)
        return row + least + most.clamp(-1, 1) + negative_sum / 100

    def positive_terms(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        return (c - row) ** 3, c * c

    def positive_weights(self, c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        return 3 * (c - row) ** 2, 2 * c


@triton.jit
def cubic_negative_terms(c, row, p):
    return p[0] * (c + row) * (c + row) * (c + row), c


@triton.jit
def cubic_negative_weight(c, row, p):
    return 3.0 * p[0] * (c + row) * (c + row)


@triton.jit
def cubic_positive_row(row, least, most, negative_sum, p):
    least = tl.minimum(tl.maximum(least, -1.0), 1.0)
    return row + least + tl.minimum(tl.maximum(most, -1.0), 1.0) + negative_sum / 100


@triton.jit
def cubic_positive_terms(c, row, p):
    return (c - row) * (c - row) * (c - row), c * c


@triton.jit
def cubic_positive_weights(c, row, p):
    return 3.0 * (c - row) * (c - row), 2.0 * c


CUBIC = PairTermsKernels(
    cubic_negative_terms,
    cubic_negative_weight,
    cubic_positive_row,
    cubic_positive_terms,
    cubic_positive_weights,
)


class CubicRule(PairRule):
    """Every statistic counts, whether it is differentiated or not."""

    def terms(self, closeness: Closeness) -> PairTerms:
        return Cubic(2.0)

    def value(self, statistics: PairStatistics, closeness: Closeness) -> dict[str, RowLosses]:
        sums = statistics.negative_sum + 2 * statistics.positive_sum + 3 * statistics.positive_second
        return element(sums + statistics.negative_second + 5 * statistics.positives + statistics.negatives)


@pytest.mark.parametrize("selection", [EVERYTHING, MINED], ids=["all", "mined"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("refs", [0, 50])
def test_terms_of_a_user(monkeypatch: pytest.MonkeyPatch, form: str, refs: int, selection: Selection) -> None:
    use_form(monkeypatch, form)
    case = Case(CubicRule(), EUCLIDEAN, selection, boundary=0.3)
    monkeypatch.delitem(PAIR_TERMS, "cubic", raising=False)
    monkeypatch.setattr(Cubic, "native", ())
    with pytest.raises(fastdml.BackendError, match="no triton kernels"):
        check(case, random_batch(40, 16, refs))
    register(Cubic, triton=CUBIC)
    check(case, random_batch(40, 16, refs))
    with pytest.raises(ValueError, match="'cubic', which other kernels bear"):
        register(Cubic, triton=CUBIC._replace(light=True))
