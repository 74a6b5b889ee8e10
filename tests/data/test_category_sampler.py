"""Category batches: composition, fair turns of classes, repeatability, taking up again, and the errors."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import pytest
import torch

from fastdml.data.category_sampler import CategoryBatchSampler
from fastdml.errors import InputError

# Labels that are no positions, 3 images each; categories 10, 20, 30 with 12, 7 and 5 classes; rows shuffled.
_SIZES = {10: 12, 20: 7, 30: 5}
_ORDER = torch.randperm(72, generator=torch.Generator().manual_seed(1))
LABELS = (torch.arange(24) * 2 - 9).repeat_interleave(3)[_ORDER]
CATEGORIES = torch.cat([torch.full((3 * n,), c) for c, n in _SIZES.items()])[_ORDER]


def make(
    classes: int = 4, samples: int = 2, categories: int = 1, seed: int = 3, **more: Any
) -> CategoryBatchSampler:
    return CategoryBatchSampler(LABELS, CATEGORIES, classes, samples, categories, seed, **more)


@pytest.mark.parametrize(("classes", "samples", "categories"), [(4, 2, 1), (5, 3, 1), (4, 1, 2), (9, 2, 3)])
@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (-1, 5), (2**70, 2)])
def test_every_batch_has_equally_many_classes_of_different_categories(
    classes: int, samples: int, categories: int, seed: int, epoch: int
) -> None:
    sampler = make(classes, samples, categories, seed, num_batches=40)
    for number in range(40):
        rows = sampler.batch(number, epoch)
        assert len(set(rows.tolist())) == classes * samples
        by_class = LABELS[rows].view(classes, samples)
        assert bool((by_class == by_class[:, :1]).all())
        assert len(set(by_class[:, 0].tolist())) == classes
        times = torch.unique(CATEGORIES[rows].view(classes, samples)[:, 0], return_counts=True)[1]
        assert times.tolist() == [classes // categories] * categories


def test_a_round_holds_every_class_that_fills_a_share_once() -> None:
    sampler = make(classes=4, samples=1, num_batches=50)  # a round: 3 + 1 + 1 shares of 4 classes
    for first in range(0, 50, 5):
        rows = torch.cat([sampler.batch(number) for number in range(first, first + 5)])
        assert len(set(LABELS[rows].tolist())) == 20
        assert torch.bincount(CATEGORIES[rows] // 10, minlength=4).tolist() == [0, 12, 4, 4]


def test_categories_come_as_often_as_they_have_classes_and_classes_equally_often() -> None:
    sampler = make(classes=1, samples=1, num_batches=240)
    rows = torch.cat(list(sampler))
    times = torch.bincount(LABELS[rows] + 9)[::2]
    assert times.tolist() == [10] * 24


def test_categories_alternate_within_a_round() -> None:
    rows = torch.cat(list(make(classes=1, samples=1, num_batches=240)))
    changes = CATEGORIES[rows].view(10, 24).diff(dim=1) != 0  # two in each round, were they dealt in order
    assert int(changes.sum(1).min()) >= 8


def test_left_over_classes_change_from_round_to_round() -> None:
    rows = torch.cat(list(make(classes=4, samples=1, num_batches=500)))  # 100 rounds
    times = torch.bincount(LABELS[rows] + 9)[::2]
    assert times[:12].tolist() == [100] * 12
    assert 40 < int(times[12:19].min()) <= int(times[12:19].max()) < 75  # 4 of 7 each round: 57
    assert 65 < int(times[19:].min()) <= int(times[19:].max()) < 95  # 4 of 5 each round: 80


def test_a_category_larger_than_all_others_together_still_comes_once_a_batch() -> None:
    labels = torch.arange(30)
    categories = torch.tensor([7] * 24 + [8] * 3 + [9] * 3)
    sampler = CategoryBatchSampler(labels, categories, 2, 1, 2, num_batches=300)
    rows = torch.stack(list(sampler))  # [300, 2]
    assert bool((categories[rows[:, 0]] != categories[rows[:, 1]]).all())
    assert len(set(rows.flatten().tolist())) == 30


def test_partners_of_a_category_change() -> None:
    categories = torch.arange(20) // 5
    sampler = CategoryBatchSampler(torch.arange(20), categories, 2, 1, 2, num_batches=200)
    pairs = torch.stack([categories[rows].sort().values for rows in sampler])
    times = torch.bincount(pairs @ torch.tensor([4, 1]), minlength=16).view(4, 4)
    assert int(times.sum()) == 200
    assert int(times.triu(1)[times > 0].min()) > 15  # 33 each on average
    assert int((times > 0).sum()) == 6


def test_batches_depend_on_seed_epoch_and_number_alone() -> None:
    torch.manual_seed(0)
    first = torch.stack([make(num_batches=8).batch(number, 2) for number in range(8)])
    torch.manual_seed(9)
    sampler = make(num_batches=8)
    backwards = torch.stack([sampler.batch(number, 2) for number in reversed(range(8))]).flip(0)
    assert torch.equal(first, backwards)
    others = [make(num_batches=8, seed=4).batch(0, 2), sampler.batch(0, 3), sampler.batch(1, 2)]
    assert not any(torch.equal(first[0], other) for other in others)


def test_taking_up_from_a_state_goes_on_with_the_same_batches() -> None:
    whole = make(num_batches=6)
    expected = [*whole, *whole]
    begun = make(num_batches=6)
    head = list(islice(begun, 4))
    taken_up = make(num_batches=6)
    taken_up.load_state_dict(json.loads(json.dumps(begun.state_dict())))
    rest = [*taken_up, *taken_up]
    assert torch.equal(torch.stack(head + rest), torch.stack(expected))


def test_state_of_other_categories_is_refused() -> None:
    state = make(classes=4, categories=1, num_batches=6).state_dict()
    with pytest.raises(
        ValueError, match="categories_per_batch must be 2 as in this sampler, got a state with 1"
    ):
        make(classes=4, categories=2, num_batches=6).load_state_dict(state)
    merged = CategoryBatchSampler(LABELS, CATEGORIES // 20, 4, 2, seed=3, num_batches=6)
    with pytest.raises(ValueError, match="num_categories must be 2 as in this sampler, got a state with 3"):
        merged.load_state_dict(state)


def test_small_categories_are_left_out_with_a_warning() -> None:
    with pytest.warns(
        UserWarning, match=r"^12 classes are in no batch.*fewer than the 8 .*20 \(7\), 30 \(5\)$"
    ):
        sampler = make(classes=8, samples=1, num_batches=10)
    assert set(CATEGORIES[torch.cat(list(sampler))].tolist()) == {10}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": 13}, r"with 13 classes or more each, got 13 where 0 of 3 have them; the largest has 12"),
        (
            {"classes": 16, "categories": 2},
            r"\(2\) categories with 8 classes .* got 16 where 1 of 3 have them",
        ),
        ({"classes": 8, "categories": 4}, r"\(4\) categories with 2 classes .* where 3 of 3 have them"),
        ({"classes": 5, "categories": 2}, r"must be a multiple of categories_per_batch \(2\), got 5"),
        ({"categories": 0}, "categories_per_batch must be at least 1, got 0"),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(**settings)


def test_wrong_categories_are_named() -> None:
    wrong = CATEGORIES.clone()
    row = int((LABELS == 5).nonzero()[1])  # the second image of label 5, of category 10
    wrong[row] = 30
    with pytest.raises(InputError, match="the same for all images of a class, got 10 and 30 for label 5"):
        CategoryBatchSampler(LABELS, wrong, 4, 2)
    with pytest.raises(InputError, match=r"categories must have shape \[72\], got \[71\]"):
        CategoryBatchSampler(LABELS, CATEGORIES[1:], 4, 2)
    with pytest.raises(TypeError, match=r"categories must be an integer tensor, got torch.float32"):
        CategoryBatchSampler(LABELS, CATEGORIES.float(), 4, 2)
