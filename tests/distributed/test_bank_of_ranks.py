"""A centroid bank holds the same on every rank, and what one process would hold."""

from __future__ import annotations

import pytest
import torch
from bank_cases import data, epochs_of_uneven_batches, streamed, trained_by_ddp
from ranks import Ranks

from fastdml.losses import CentroidBank


@pytest.mark.parametrize("count", [1, 2, 3])
def test_equals_one_process(ranks: Ranks, count: int) -> None:
    bank = CentroidBank(8, 6)
    bank.fill([data()])
    found = ranks(count, streamed, None)
    assert all(torch.equal(found[0], other) for other in found)
    torch.testing.assert_close(found[0], bank.centroids)
    assert bank.centroids[:7].norm(dim=1).min() > 0.99


def test_momentum_moves_by_the_batches_of_all_ranks(ranks: Ranks) -> None:
    embeddings, labels = data()
    bank = CentroidBank(8, 6, momentum=0.5)
    for first, end in ((0, 14), (14, 50)):
        bank.update(embeddings[first:end], labels[first:end])
    found = ranks(2, streamed, 0.5)
    assert torch.equal(*found)
    torch.testing.assert_close(found[0], bank.centroids)


def test_every_rank_counts_its_own_epochs(ranks: Ranks) -> None:
    assert ranks(2, epochs_of_uneven_batches) == [[50, 50, 50], [20, 20, 20]]


def test_sums_survive_the_broadcasts_of_ddp(ranks: Ranks) -> None:
    embeddings, labels = data()
    seen = torch.cat([torch.arange(50)[rank::2][:16] for rank in range(2)])
    bank = CentroidBank(8, 6)
    bank.fill([data()])
    bank.update(embeddings[seen], labels[seen])
    bank.refresh()
    found = ranks(2, trained_by_ddp)
    assert torch.equal(*found)
    torch.testing.assert_close(found[0], bank.centroids)
