"""What happens on one rank alone does not part it from the others."""

from __future__ import annotations

import pytest
import step_cases
import torch
from ranks import Ranks
from torch import nn

RANKS = 4
HELD = step_cases.ROWS


def expect_same(found: list, wanted: tuple, rtol: float = 1e-6) -> None:
    for values, state, _ in found:
        assert values == pytest.approx(wanted[0], rel=rtol)
        assert float((state - wanted[1]).norm() / wanted[1].norm()) < rtol


@pytest.mark.parametrize("short", [0, 2])
def test_out_of_memory_on_one_rank_halves_the_chunks_of_all(ranks: Ranks, short: int) -> None:
    most = [2 if rank == short else HELD for rank in range(RANKS)]
    found = ranks(RANKS, step_cases.over_ranks, most)
    expect_same(found, step_cases.steps(0, 1, chunk=2))
    notes = [notes for _, _, notes in found]
    assert all("out of memory at step 1" in note for (note,) in notes)
    assert ["on another process" in note for (note,) in notes] == [rank != short for rank in range(RANKS)]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_more_ranks_than_chunks(ranks: Ranks, precision: str) -> None:
    """Some have no rows at all, from the first step on."""
    settings = {"chunk": 12, "precision": precision}
    found = ranks(RANKS, step_cases.over_ranks, [HELD] * RANKS, settings)
    expect_same(found, step_cases.steps(0, 1, **settings), 1e-6 if precision != "bf16" else 1e-2)


def test_float16_over_ranks(ranks: Ranks) -> None:
    found = ranks(RANKS, step_cases.over_ranks, [HELD] * RANKS, {"precision": "fp16", "count": 5})
    wanted = step_cases.steps(0, 1, count=5)
    expect_same(found, wanted, 2e-2)
    assert all(torch.equal(found[0][1], state) for _, state, _ in found)


def test_a_network_is_that_of_the_first_rank(ranks: Ranks) -> None:
    found = ranks(RANKS, step_cases.networks_made_apart)
    assert all(torch.equal(found[0], other) for other in found)
    torch.manual_seed(0)
    assert torch.equal(found[0][: 4 * 27], nn.Conv2d(3, 4, 3).weight.double().flatten())
