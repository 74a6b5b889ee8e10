"""Centroids of a whole data set: what they are, when they change, and how long they serve."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastdml import InputError
from fastdml.losses import CentroidBank, FATLoss, HybridFATLoss
from fastdml.losses.centroids import CENTROID_KINDS


def data(samples: int = 90, classes: int = 6, width: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (samples,), generator=generator)
    return torch.randn(samples, width, generator=generator) + 0.5, labels


def means(embeddings: Tensor, labels: Tensor, kind: str) -> Tensor:
    """[C, D], one class at a time, in float64."""
    choice = CENTROID_KINDS[kind]
    rows = embeddings.double()
    rows = F.normalize(rows, dim=1) if choice.of_units else rows
    found = torch.stack([rows[labels == c].mean(dim=0) for c in range(int(labels.max()) + 1)])
    return F.normalize(found, dim=1) if choice.unit else found


@pytest.mark.parametrize("kind", CENTROID_KINDS)
def test_streamed_centroids_are_the_means_of_the_data_set(kind: str) -> None:
    embeddings, labels = data()
    bank = CentroidBank(6, 8, centroids=kind)
    bank.fill(zip(embeddings.split(13), labels.split(13), strict=True))
    torch.testing.assert_close(bank.centroids.double(), means(embeddings, labels, kind), rtol=1e-6, atol=1e-7)


def test_a_million_samples_lose_no_digits() -> None:
    bank = CentroidBank(1, 2, centroids="mean")
    part = torch.full((50_000, 2), 0.1)
    bank.fill((part, torch.zeros(50_000, dtype=torch.int64)) for _ in range(20))
    assert bank.centroids[0].tolist() == part[0].tolist()  # float32 sums would be off by 1e-3


def test_one_refresh_an_epoch_is_all_there_is_to_do() -> None:
    embeddings, labels = data()
    bank = CentroidBank(6, 8)
    bank.fill([(torch.ones(6, 8), torch.arange(6))])
    loss = FATLoss(bank=bank)
    for rows, own in zip(embeddings[:6].split(3), labels[:6].split(3), strict=True):
        loss(rows, own)
    assert torch.equal(bank.centroids, bank.centroids[:1].expand(6, 8))  # not yet
    bank.refresh()
    seen = torch.zeros(6, dtype=torch.bool).index_fill(0, labels[:6], True)
    assert not seen.all()
    torch.testing.assert_close(bank.centroids[~seen], F.normalize(torch.ones(6, 8))[~seen])  # kept
    wanted = [F.normalize(F.normalize(embeddings[:6])[labels[:6] == c].mean(0), dim=0) for c in range(6)]
    torch.testing.assert_close(bank.centroids[seen], torch.stack(wanted)[seen])


def test_evaluation_feeds_nothing() -> None:
    embeddings, labels = data()
    loss = FATLoss(bank=CentroidBank(6, 8, max_age=math.inf))
    assert loss.bank is not None
    loss.bank.fill([(embeddings, labels)])
    loss.eval()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    for _ in range(3):
        loss(embeddings, labels)
    assert all(torch.equal(before[name], value) for name, value in loss.state_dict().items())


def test_momentum_moves_the_classes_of_a_batch() -> None:
    embeddings, labels = data()
    bank = CentroidBank(6, 8, centroids="mean", momentum=0.75)
    bank.update(embeddings, labels)
    first = means(embeddings, labels, "mean").float()
    torch.testing.assert_close(bank.centroids, first)  # nothing to keep yet
    bank.update(torch.zeros(2, 8), torch.tensor([3, 3]))
    wanted = first.clone()
    wanted[3] *= 0.75
    torch.testing.assert_close(bank.centroids, wanted)
    for _ in range(50):  # never stale
        FATLoss(bank=bank)(embeddings, labels)


def test_the_loss_with_a_bank_is_that_of_a_batch_with_its_centroids() -> None:
    embeddings, labels = data()
    bank = CentroidBank(6, 8)
    bank.fill([(embeddings, labels)])
    for negatives in ("all", "mean", "hardest:3", "batch:3"):
        given = embeddings.clone().requires_grad_()
        value = FATLoss(bank=bank, negatives=negatives).eval()(given, labels)
        torch.testing.assert_close(value, FATLoss(negatives=negatives)(embeddings, labels))
        (gradient,) = torch.autograd.grad(value, given)
        assert (gradient != 0).any()
    assert not bank.centroids.requires_grad


def test_classes_that_never_came_are_no_negatives() -> None:
    embeddings, labels = data()
    bank = CentroidBank(9, 8)
    bank.fill([(embeddings[labels != 2], labels[labels != 2])])
    value = FATLoss(bank=bank)(embeddings, labels)  # anchors of class 2 are left out
    kept = labels != 2
    torch.testing.assert_close(value, FATLoss()(embeddings[kept], labels[kept]))


def test_doubtful_and_broken_samples_form_no_centroid() -> None:
    embeddings, labels = data()
    bank = CentroidBank(6, 8)
    broken = embeddings.clone()
    broken[4, 3] = math.nan
    trusted = torch.arange(90) % 3 != 0
    bank.update(broken, labels, trusted)
    bank.refresh()
    kept = trusted.clone()
    kept[4] = False
    torch.testing.assert_close(
        bank.centroids.double(), means(embeddings[kept], labels[kept], "unit_of_mean_of_units")
    )


def test_a_bank_serves_one_epoch() -> None:
    embeddings, labels = data()
    bank = CentroidBank(6, 8)
    bank.fill([(embeddings, labels)])
    loss = FATLoss(bank=bank)
    for rows, own in zip(embeddings.split(30), labels.split(30), strict=True):
        loss(rows, own)
    loss(embeddings[:30], labels[:30])  # the fourth batch finds out
    with pytest.raises(InputError, match="bank must be refreshed every max_age=1 epochs, got one that has"):
        loss(embeddings[:30], labels[:30])
    bank.refresh()
    loss(embeddings[:30], labels[:30])


def test_doubtful_samples_count_for_the_length_of_an_epoch() -> None:
    embeddings, labels = data()
    confidence = (torch.arange(90) % 10 > 2).float()
    loss = FATLoss(bank=CentroidBank(6, 8))
    assert loss.bank is not None
    loss.bank.fill([(embeddings, labels)])
    for _ in range(3):
        for rows in torch.arange(90).split(30):
            loss(embeddings[rows], labels[rows], confidence=confidence[rows])
        loss.bank.refresh()
    kept = confidence > 0
    wanted = means(embeddings[kept], labels[kept], "unit_of_mean_of_units")
    torch.testing.assert_close(loss.bank.centroids.double(), wanted)


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_to_fill_is_to_start_anew(momentum: float | None) -> None:
    embeddings, labels = data()
    bank = CentroidBank(6, 8, momentum=momentum)
    bank.fill([(-embeddings, labels)])
    kept = labels != 5
    batches = zip(embeddings[kept].split(20), labels[kept].split(20), strict=True)
    bank.fill(batches)
    assert bank.known.tolist() == [True] * 5 + [False]
    wanted = means(embeddings[kept], labels[kept], "unit_of_mean_of_units")
    torch.testing.assert_close(bank.centroids[:5].double(), wanted)


def test_sums_stay_float64_in_a_model_of_halves() -> None:
    bank = CentroidBank(1, 1, centroids="mean").bfloat16()
    for _ in range(300):
        bank.update(torch.full((10, 1), 0.1), torch.zeros(10, dtype=torch.int64))
    bank.refresh()
    assert bank.centroids.item() == torch.tensor(0.1).bfloat16().item()


def test_validation_in_inference_mode_leaves_training_alone() -> None:
    embeddings, labels = data()
    loss = FATLoss(bank=CentroidBank(6, 8))
    assert loss.bank is not None
    loss.bank.fill([(embeddings, labels)])
    with torch.inference_mode():
        before = loss.eval()(embeddings, labels)
    rows = embeddings.clone().requires_grad_()
    value = loss.train()(rows, labels)
    value.backward()
    assert value.item() == before.item()


def test_all_is_in_the_state_dict() -> None:
    embeddings, labels = data()
    loss = HybridFATLoss(6, 8, bank=CentroidBank(6, 8))
    assert loss.bank is not None
    loss.bank.fill([(embeddings, labels)])
    loss(embeddings, labels)
    twin = HybridFATLoss(6, 8, bank=CentroidBank(6, 8))
    assert twin.bank is not None
    twin.load_state_dict(loss.state_dict())
    torch.testing.assert_close(twin.eval()(embeddings, labels), loss.eval()(embeddings, labels))
    twin.train()
    twin(embeddings[:1], labels[:1])
    with pytest.raises(InputError, match="must be refreshed"):  # the clock went along
        twin(embeddings[:1], labels[:1])
    twin.bank.refresh()
    torch.testing.assert_close(twin.bank.centroids, loss.bank.centroids, rtol=0.2, atol=0.05)


ERRORS = [
    (lambda: CentroidBank(0, 8), "num_classes must be a positive integer"),
    (lambda: CentroidBank(6, 8, momentum=1.0), r"momentum must be in \[0, 1\)"),
    (lambda: CentroidBank(6, 8, max_age=0), "max_age must be above 0"),
    (lambda: CentroidBank(6, 8, centroids="median"), "centroids must be one of"),
    (lambda: CentroidBank(6, 8).refresh(), "must be given embeddings"),
    (lambda: CentroidBank(6, 8, momentum=0.5).refresh(), "momentum must be None"),
    (lambda: FATLoss(bank=CentroidBank(6, 8))(*data()), "bank must hold centroids before it serves"),
    (lambda: CentroidBank(5, 8).update(*data()), r"labels must be in \[0, 5\), the classes of the bank"),
    (lambda: CentroidBank(6, 9).update(*data()), r"embeddings must have shape \[B, 9\] as the bank"),
    (lambda: FATLoss(bank=CentroidBank(6, 9))(*data()), r"embeddings must have shape \[B, 9\] as the bank"),
    (lambda: FATLoss(bank=CentroidBank(6, 8), centroids="mean"), "centroids must be those of the bank"),
    (lambda: HybridFATLoss(7, 8, bank=CentroidBank(6, 8)), "bank must be one of 7 classes, got 6"),
    (
        lambda: CentroidBank(6, 8).load_state_dict(CentroidBank(7, 8).state_dict()),
        r"state_dict must hold a bank of \[6, 8\] centroids, got \[7, 8\]",
    ),
]


@pytest.mark.parametrize(("call", "message"), ERRORS)
def test_bad_input_is_named(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(InputError, match=message):
        call()
