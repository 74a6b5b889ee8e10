"""Distributions over classes, kept as the few that hold the mass."""

from __future__ import annotations

import pytest
import torch

from fastdml import InputError, SoftLabels


def probabilities() -> torch.Tensor:
    return torch.softmax(torch.randn(9, 6, generator=torch.Generator().manual_seed(0)) * 2, dim=1)


def test_all_classes_are_the_distribution_itself() -> None:
    given = probabilities()
    soft = SoftLabels.of(given)
    assert len(soft) == 9
    torch.testing.assert_close(soft.dense(6), given)
    assert torch.equal(soft.labels, given.argmax(dim=1))


def test_the_largest_are_kept_and_scaled() -> None:
    given = probabilities()
    soft = SoftLabels.of(given, most=2)
    kept = given.topk(2, dim=1)
    assert torch.equal(soft.classes, kept.indices)
    torch.testing.assert_close(soft.shares, kept.values / kept.values.sum(dim=1, keepdim=True))
    assert soft.dense(6).count_nonzero(dim=1).tolist() == [2] * 9


def test_missing_classes_hold_nothing() -> None:
    soft = SoftLabels(torch.tensor([[2, -1], [0, 3]]), torch.tensor([[1.0, 0.0], [0.25, 0.75]]))
    assert soft.dense(4).tolist() == [[0, 0, 1, 0], [0.25, 0, 0, 0.75]]
    assert soft.labels.tolist() == [2, 3]


@pytest.mark.parametrize("rows", [torch.tensor([3, 0]), torch.arange(9) % 4 == 3])
def test_some_samples(rows: torch.Tensor) -> None:
    soft = SoftLabels.of(probabilities(), most=3)
    part = soft[rows].to("cpu")
    assert torch.equal(part.classes, soft.classes[rows])
    assert torch.equal(part.shares, soft.shares[rows])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_dtypes_may_round_the_sum(dtype: torch.dtype) -> None:
    shares = torch.full((4, 3), 1 / 3).to(dtype)
    SoftLabels(torch.arange(3).expand(4, 3), shares)


def test_they_are_constants() -> None:
    shares = torch.ones(2, 1, requires_grad=True)
    assert not SoftLabels(torch.zeros(2, 1, dtype=torch.int64), shares).shares.requires_grad


ERRORS = [
    (lambda: SoftLabels(torch.zeros(4, 0).long(), torch.zeros(4, 0)), "shares must name at least one class"),
    (lambda: SoftLabels(torch.tensor([[-7]]), torch.ones(1, 1)), "classes must be at least 0, or -1"),
    (lambda: SoftLabels(torch.tensor([[-1]]), torch.ones(1, 1)), "shares must be 0 where the class is -1"),
    (lambda: SoftLabels.of(torch.eye(3))[1], r"rows must be indices \[M\], a mask or a slice, got 1"),
    (lambda: SoftLabels(torch.zeros(3), torch.zeros(3)), r"classes must be int64 \[N, S\]"),
    (lambda: SoftLabels(torch.zeros(3, 2).long(), torch.zeros(3, 1)), r"shares must be floating \[3, 2\]"),
    (
        lambda: SoftLabels(torch.zeros(3, 1).long(), torch.tensor([[1.0], [0.9], [1.0]])),
        "shares must be distributions, .* got a sum of 0.9 and a least share of 0.9 for sample 1",
    ),
    (lambda: SoftLabels.of(torch.tensor([[1.5, -0.5]])), "got a sum of 1 and a least share of -0.5"),
    (lambda: SoftLabels.of(torch.tensor([[torch.nan, 1.0]])), "must be distributions"),
    (lambda: SoftLabels.of(torch.eye(3), most=0), "most must be at least 1, got 0"),
    (lambda: SoftLabels.of(torch.ones(3)), r"probabilities must be floating \[N, C\]"),
]


@pytest.mark.parametrize(("call", "message"), ERRORS)
def test_bad_input_is_named(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(InputError, match=message):
        call()
