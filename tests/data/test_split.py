"""Split refuses columns that do not fit, and hands out images as floats."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fastdml.data import Dataset, Split


def fields(**changes: Any) -> dict[str, Any]:
    every = torch.ones(3, dtype=torch.bool)
    made: dict[str, Any] = {
        "name": "toy",
        "images": torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1),
        "labels": torch.tensor([0, 1, 1]),
        "class_names": ("a", "b"),
        "is_query": every,
        "is_gallery": every,
    }
    return {**made, **changes}


def test_batch_scales_to_one() -> None:
    batch = Split(**fields()).batch(torch.tensor([2, 1]))
    assert batch.dtype == torch.float32
    assert torch.allclose(batch.flatten(), torch.tensor([1.0, 0.2]))


def test_images_may_be_read_when_asked_for() -> None:
    class Squares:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: Tensor) -> Tensor:
            return (index * index).to(torch.uint8).view(-1, 1, 1, 1)

    split = Split(**fields(images=Squares()))
    assert torch.allclose(split.batch(torch.tensor([2, 0])).flatten() * 255, torch.tensor([4.0, 0.0]))


def test_number_of_classes_counts_those_present() -> None:
    assert Split(**fields(labels=torch.tensor([1, 1, 1]))).num_classes == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": torch.tensor([0, 1])}, r"labels must have shape \[3\], got \[2\]"),
        ({"labels": torch.tensor([0, 1, 1]).int()}, "labels must have dtype torch.int64, got torch.int32"),
        ({"labels": torch.tensor([0, 1, 2])}, r"labels must lie in \[0, 1\], the range of class_names"),
        ({"labels": torch.tensor([0, -1, 1])}, r"got \[-1, 1\]"),
        ({"is_query": torch.ones(3)}, "is_query must have dtype torch.bool, got torch.float32"),
        ({"is_gallery": torch.ones(4, dtype=torch.bool)}, r"is_gallery must have shape \[3\], got \[4\]"),
        ({"cameras": torch.zeros(3, 1, dtype=torch.int64)}, r"cameras must have shape \[3\], got \[3, 1\]"),
        ({"domains": torch.tensor([0, 0, 0])}, "range of domain_names"),
    ],
)
def test_columns_that_do_not_fit_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Split(**fields(**changes))


def test_classes_that_training_knows_are_told_of() -> None:
    def part(labels: list[int]) -> Split:
        every = torch.ones(len(labels), dtype=torch.bool)
        images = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
        return Split("part", images, torch.tensor(labels), tuple("abcde"), every, every)

    assert Dataset("d", "csv", part([0, 1]), part([2, 3, 4, 4])).test_classes == "3 unseen classes"
    shared = Dataset("d", "csv", part([0, 1]), part([1, 2])).test_classes
    assert shared == "2 classes, 1 of them trained on"
