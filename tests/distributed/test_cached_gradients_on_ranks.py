"""Cached gradients of a network in DistributedDataParallel."""

from __future__ import annotations

import cached_cases as cases
import pytest
import torch
from ranks import Ranks


@pytest.mark.parametrize("sizes", [(6, 6, 6, 6), (11, 2, 4, 7)], ids=["even", "uneven"])
@pytest.mark.parametrize("chunk", [3, 100])
def test_training_is_that_of_one_process(ranks: Ranks, sizes: tuple[int, ...], chunk: int) -> None:
    wanted = cases.in_one_process()
    for found, exchanges in ranks(4, cases.on_ranks, sizes, chunk):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)
        assert exchanges == cases.STEPS  # once a step, whatever the number of chunks
