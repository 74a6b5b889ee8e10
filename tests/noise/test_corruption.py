"""Planted noise: as many wrong labels as asked for, wrong as asked for, from the seed alone."""

from __future__ import annotations

import pytest
import torch

from fastdml.data import Split
from fastdml.errors import InputError
from fastdml.noise import KINDS, corrupt, corrupt_split

LABELS = torch.arange(10, 18).repeat_interleave(125)  # [1000], 8 classes


@pytest.mark.parametrize("rate", [0.0, 0.0014, 0.2, 0.999])
def test_wrong_ids_are_as_many_as_asked_and_never_the_own(rate):
    found = corrupt(LABELS, "wrong-id", rate)
    assert torch.equal(found.labels != LABELS, found.is_noisy)
    assert int(found.is_noisy.sum()) == round(1000 * rate)
    assert set(found.labels.tolist()) <= set(LABELS.tolist())
    assert torch.equal(found.source, torch.arange(1000))


def test_wrong_ids_are_spread_evenly_over_the_other_classes():
    labels = torch.full((7000,), 3)
    found = corrupt(labels, "wrong-id", 0.999999, num_classes=8)
    counts = torch.bincount(found.labels, minlength=8)
    assert counts[3] == 0
    others = counts[counts > 0]
    assert len(others) == 7
    assert 880 < int(others.min()) <= int(others.max()) < 1120  # 1000 of each, 4 standard deviations of 29


def test_several_ids_leave_the_samples_and_add_wrong_copies():
    found = corrupt(LABELS, "several-ids", 0.3)
    assert len(found.labels) == len(found.source) == len(found.is_noisy) == 1300
    assert torch.equal(found.labels[:1000], LABELS)
    assert torch.equal(found.source[:1000], torch.arange(1000))
    assert found.is_noisy.tolist() == [False] * 1000 + [True] * 300
    copied = found.source[1000:]
    assert len(torch.unique(copied)) == 300
    assert bool((found.labels[1000:] != LABELS[copied]).all())


def test_images_of_no_id_get_any_label():
    found = corrupt(LABELS, "no-id", 0.8)
    assert int(found.is_noisy.sum()) == 800
    assert torch.equal(found.labels[~found.is_noisy], LABELS[~found.is_noisy])
    counts = torch.bincount(found.labels[found.is_noisy] - 10, minlength=8)
    assert 65 < int(counts.min()) <= int(counts.max()) < 140  # 100 of each, of standard deviation 9
    assert 0 < int((found.labels == LABELS)[found.is_noisy].sum()) < 200  # by chance an eighth


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_seed_decides(kind):
    first = corrupt(LABELS, kind, 0.2, seed=5)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = corrupt(LABELS.to(torch.int32), kind, 0.2, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    other = corrupt(LABELS, kind, 0.2, seed=6)
    assert again.labels.dtype == torch.int64
    for name in ("labels", "source", "is_noisy"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.labels, other.labels)
    assert (first.kind, first.rate, first.seed) == (kind, 0.2, 5)
    noisy = {"kind": kind, "rate": 0.2, "seed": 5, "samples": len(first.labels), "noisy": 200}
    assert first.to_dict() == noisy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "typo"}, "kind must be one of wrong-id, no-id, several-ids, got 'typo'"),
        ({"rate": 1.0}, "rate must be from 0 to below 1, got 1.0"),
        ({"rate": -0.1}, "rate must be from 0 to below 1, got -0.1"),
        ({"rate": float("nan")}, "rate must be from 0 to below 1, got nan"),
        ({"labels": torch.zeros(4).long()}, "labels must hold at least two classes, got 1"),
        ({"labels": torch.zeros(0).long()}, "labels must hold at least two classes, got 0"),
        ({"labels": torch.zeros(4)}, r"labels must be integers \[N\], got torch.float32 \[4\]"),
        ({"labels": torch.zeros(4, 1).long()}, r"labels must be integers \[N\], got torch.int64 \[4, 1\]"),
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"num_classes": 15}, r"labels must lie in \[0, 14\] for 15 classes, got \[10, 17\]"),
    ],
)
def test_what_cannot_be_is_named(change, message):
    with pytest.raises(InputError, match=message):
        corrupt(**{"labels": LABELS, **change})


def make_split(size=16):
    """40 images of 4 classes; every pixel of an image says which it is."""
    labels = torch.arange(4).repeat_interleave(10)
    images = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(40, 1, size, size).clone()
    everyone = torch.ones(40, dtype=torch.bool)
    domains = torch.arange(40) % 3
    return Split(
        "s", images, labels, tuple("abcd"), everyone, labels < 2, torch.arange(40), domains, tuple("xyz")
    )


def test_a_split_of_wrong_ids_keeps_its_images():
    split = make_split()
    changed, planted = corrupt_split(split, "wrong-id", 0.25, seed=1)
    assert torch.equal(changed.labels, planted.labels)
    assert torch.equal(changed.images[torch.arange(40)], split.images)
    assert int((changed.labels != split.labels).sum()) == 10


def test_a_copy_in_a_split_is_the_same_image_under_another_class():
    split = make_split()
    changed, planted = corrupt_split(split, "several-ids", 0.25, seed=1)
    assert len(changed) == 50
    rows = torch.tensor([49, 3, 40])
    source = planted.source[rows]
    assert torch.equal(changed.images[rows], split.images[source])
    assert torch.equal(changed.domains[rows], split.domains[source])
    assert torch.equal(changed.cameras[rows], split.cameras[source])
    assert torch.equal(changed.is_gallery[rows], split.is_gallery[source])
    assert changed.batch(rows).shape == (3, 1, 16, 16)


@pytest.mark.parametrize("size", [16, 18])
def test_an_image_of_no_id_is_a_patchwork_of_many_images(size):
    split = make_split(size)
    changed, planted = corrupt_split(split, "no-id", 0.25, seed=1)
    images = changed.images[torch.arange(40)]
    clean = ~planted.is_noisy
    assert torch.equal(images[clean], split.images[clean])
    for image in images[planted.is_noisy]:
        assert len(torch.unique(image)) > 6  # of 16 tiles from 40 images
        tile = size // 4
        assert len(torch.unique(image[0, :tile, :tile])) == 1
    noisy = torch.nonzero(planted.is_noisy).squeeze(1)
    mixed = torch.tensor([int(noisy[2]), 0, int(noisy[0])])
    assert torch.equal(changed.images[mixed], images[mixed])  # whatever else is read with it
    again, _ = corrupt_split(split, "no-id", 0.25, seed=1)
    assert torch.equal(again.images[torch.arange(40)], images)


def test_tiles_stay_at_their_place():
    split = make_split()
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    split.images.copy_(ramp.expand_as(split.images))
    changed, _ = corrupt_split(split, "no-id", 0.5)
    assert torch.equal(changed.images[torch.arange(40)], split.images)
