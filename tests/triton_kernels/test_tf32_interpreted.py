"""Rows as TF32 products read them: rounded to nearest, before anything else is made of them."""

from __future__ import annotations

import math

import pytest
import torch

from fastdml.triton_kernels import pair
from fastdml.triton_kernels.centroid_rows import compared

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.fixture
def tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU where it is allowed; the interpreter multiplies what it is given."""
    monkeypatch.setattr(pair, "precision_of", lambda tensor: "tf32")


def test_numbers_are_rounded_to_the_nearest_of_10_bits(tf32: None) -> None:
    step = 2.0**-10
    below, above = 2.0**-24 * torch.tensor([-1.0, 1.0])
    halves = torch.tensor([1 + step / 2, 1 + 3 * step / 2, -1 - step / 2])  # to the even one
    values = torch.cat([halves, 1 + step / 2 + 2 * torch.stack([below, above]), torch.tensor([0.0, 3.0])])
    expected = [1.0, 1 + 2 * step, -1.0, 1.0, 1 + step, 0.0, 3.0]
    assert pair.as_multiplied(values).tolist() == expected
    odd = torch.tensor([math.nan, math.inf, -math.inf])
    assert torch.equal(pair.as_multiplied(odd).isnan(), odd.isnan())
    assert torch.equal(pair.as_multiplied(odd)[1:], odd[1:])


def test_other_products_read_all_of_it() -> None:
    values = torch.randn(5)
    assert pair.as_multiplied(values) is values


def test_lengths_are_those_of_what_is_multiplied(tf32: None) -> None:
    """Else a point would not be at distance 0 from itself."""
    points = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    made = compared(points, torch.float32, None)
    assert torch.equal(made.rows, pair.as_multiplied(points))
    assert not torch.equal(made.rows, points)
    torch.testing.assert_close(made.squares, (made.rows.double() ** 2).sum(1).float(), rtol=1e-6, atol=0)
