"""The P x K sampler: composition, fairness, repeatability, taking up again, and its errors."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from fastdml.data import ClassBalancedBatchSampler

LABELS = torch.arange(10).repeat(7)[torch.randperm(70, generator=torch.Generator().manual_seed(1))] * 3 - 5


@pytest.mark.parametrize(("classes", "samples"), [(1, 1), (1, 7), (3, 2), (4, 7), (7, 5), (10, 1), (10, 7)])
@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (0, 1), (-1, 3), (2**70, 10**6), (-(2**70), 2)])
def test_every_batch_holds_p_classes_of_k_distinct_images(
    classes: int, samples: int, seed: int, epoch: int
) -> None:
    sampler = ClassBalancedBatchSampler(LABELS, classes, samples, seed=seed, num_batches=5)
    for number in range(5):
        batch = sampler.batch(number, epoch)
        assert len(set(batch.tolist())) == classes * samples
        by_class = LABELS[batch].view(classes, samples)
        assert bool((by_class == by_class[:, :1]).all())
        assert len(set(by_class[:, 0].tolist())) == classes


def test_classes_take_turns() -> None:
    sampler = ClassBalancedBatchSampler(LABELS, 5, 2, seed=4, num_batches=20)
    batches = list(sampler)
    for first in range(0, 20, 2):
        drawn = torch.cat(batches[first : first + 2])
        assert sorted(set(LABELS[drawn].tolist())) == sorted(set(LABELS.tolist()))


def test_left_over_classes_change_from_round_to_round() -> None:
    sampler = ClassBalancedBatchSampler(LABELS, 6, 1, num_batches=200)
    times = torch.bincount((LABELS[torch.cat(list(sampler))] + 5) // 3, minlength=10)
    assert int(times.sum()) == 1200
    assert int(times.min()) >= 90  # 120 each on average
    assert int(times.max()) <= 150


def test_all_images_come_up() -> None:
    sampler = ClassBalancedBatchSampler(LABELS, 10, 3, num_batches=40)
    times = torch.bincount(torch.cat(list(sampler)), minlength=70)
    assert int(times.min()) >= 5  # about 17 each
    assert int(times.max()) <= 32


def test_same_seed_same_batches_other_seed_other_batches() -> None:
    def draw(seed: int) -> torch.Tensor:
        return torch.stack(list(ClassBalancedBatchSampler(LABELS, 4, 3, seed=seed, num_batches=8)))

    torch.manual_seed(0)
    first = draw(3)
    torch.manual_seed(99)  # the global generator plays no part
    assert torch.equal(first, draw(3))
    assert not torch.equal(first, draw(4))


def test_epochs_and_neighbouring_seeds_do_not_repeat_each_other() -> None:
    streams: set[tuple[int, ...]] = set()
    for seed in range(-2, 3):
        sampler = ClassBalancedBatchSampler(LABELS, 4, 3, seed=seed, num_batches=4)
        for epoch in range(5):
            streams.update(tuple(sampler.batch(number, epoch).tolist()) for number in range(4))
    assert len(streams) == 5 * 5 * 4


def test_images_of_a_class_change_from_epoch_to_epoch() -> None:
    sampler = ClassBalancedBatchSampler(torch.zeros(50, dtype=torch.int64), 1, 10)
    assert len({tuple(sampler.batch(0, epoch).tolist()) for epoch in range(6)}) == 6


def test_drawing_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list(ClassBalancedBatchSampler(LABELS, 4, 3))
    assert torch.equal(torch.rand(3), expected)


def test_taking_up_from_a_state_goes_on_with_the_same_batches() -> None:
    whole = ClassBalancedBatchSampler(LABELS, 4, 3, seed=7, num_batches=6)
    expected = [*whole, *whole]
    first = ClassBalancedBatchSampler(LABELS, 4, 3, seed=7, num_batches=6)
    begun = list(islice(first, 4))
    state = json.loads(json.dumps(first.state_dict()))
    second = ClassBalancedBatchSampler(LABELS, 4, 3, seed=7, num_batches=6)
    second.load_state_dict(state)
    rest = [*second, *second]
    assert torch.equal(torch.stack(begun), torch.stack(expected[:4]))
    assert torch.equal(torch.stack(rest), torch.stack(expected[4:]))
    assert second.state_dict()["epoch"] == 2
    assert second.state_dict()["start_batch"] == 0


def test_set_epoch_skips_to_a_batch() -> None:
    sampler = ClassBalancedBatchSampler(LABELS, 4, 3, num_batches=5)
    sampler.set_epoch(3, start_batch=2)
    rest = list(sampler)
    assert len(rest) == 3
    assert torch.equal(rest[0], sampler.batch(2, 3))


def test_default_epoch_is_one_pass() -> None:
    assert len(ClassBalancedBatchSampler(LABELS, 4, 3)) == 70 // 12
    assert len(ClassBalancedBatchSampler(LABELS[:70], 10, 7)) == 1


def test_small_classes_repeat_evenly_when_allowed() -> None:
    labels = torch.tensor([0] * 2 + [1] * 9)
    sampler = ClassBalancedBatchSampler(labels, 2, 5, num_batches=6, replacement=True)
    for batch in sampler:
        times = torch.bincount(batch, minlength=11)
        assert sorted(times[:2].tolist()) == [2, 3]
        assert int(times[2:].max()) == 1


def test_serves_a_data_loader() -> None:
    data = TensorDataset(torch.arange(70), LABELS)
    sampler = ClassBalancedBatchSampler(LABELS, 4, 3, seed=2)
    loaded = [index for index, _ in DataLoader(data, batch_sampler=sampler)]  # type: ignore[arg-type]
    assert torch.equal(torch.stack(loaded), torch.stack([sampler.batch(n, 0) for n in range(len(sampler))]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes_per_batch": 11}, "classes_per_batch must be at most the 10 classes of labels, got 11"),
        ({"samples_per_class": 8}, r"samples_per_class must be at most 7, the size of the smallest class"),
        ({"classes_per_batch": 0}, "classes_per_batch must be at least 1, got 0"),
        ({"samples_per_class": -1}, "samples_per_class must be at least 1, got -1"),
        ({"num_batches": 0}, "num_batches must be at least 1, got 0"),
        ({"labels": LABELS.view(7, 10)}, r"labels must have shape \[N\] with N at least 1, got \[7, 10\]"),
        ({"labels": LABELS[:0]}, r"got \[0\]"),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassBalancedBatchSampler(
            **{"labels": LABELS, "classes_per_batch": 2, "samples_per_class": 2, **settings}
        )


def test_smallest_class_is_pointed_out() -> None:
    with pytest.raises(ValueError, match=r"size of the smallest class \(label 9\), got 4; replacement=True"):
        ClassBalancedBatchSampler(torch.tensor([4, 4, 4, 4, 9, 9]), 2, 4)


def test_float_labels_are_refused() -> None:
    with pytest.raises(TypeError, match=r"labels must be an integer tensor, got torch.float32"):
        ClassBalancedBatchSampler(LABELS.float(), 2, 2)


def test_bad_positions_are_refused() -> None:
    sampler = ClassBalancedBatchSampler(LABELS, 4, 3, num_batches=5)
    with pytest.raises(ValueError, match=r"start_batch must lie in \[0, 5\], got 6"):
        sampler.set_epoch(0, 6)
    with pytest.raises(ValueError, match=r"epoch must be at least 0, got -1"):
        sampler.set_epoch(-1)
    with pytest.raises(ValueError, match=r"number must lie in \[0, 5\), got 5"):
        sampler.batch(5)
    other = ClassBalancedBatchSampler(LABELS, 4, 3, num_batches=5, seed=1)
    with pytest.raises(ValueError, match=r"seed must be 0 as in this sampler, got a state with 1"):
        sampler.load_state_dict(other.state_dict())
