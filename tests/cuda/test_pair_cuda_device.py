"""What the CUDA operators do on a device alone: blocks of their real size, graphs, memory."""

from __future__ import annotations

import pytest
import torch
from captured import assert_replays
from pair_cases import CASES, losses_and_gradients
from test_pair_cuda import DTYPES, FAMILIES, assert_equals_the_reference, place
from torch import Tensor

from pair_batches import Batch

CASE = CASES[FAMILIES[0]]

pytestmark = pytest.mark.usefixtures("gpu", "poisoned_memory")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", FAMILIES)
def test_blocks_of_their_real_size(case: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rows, candidates = 6500, 4500
    embeddings, ref = torch.randn(rows, 128) + 0.2, torch.randn(candidates, 128) + 0.2
    labels, ref_labels = torch.randint(800, (rows,)), torch.randint(800, (candidates,))
    for batch in (Batch(embeddings, labels), Batch(embeddings, labels, ref, ref_labels)):
        assert_equals_the_reference(CASES[case], place(batch, "cuda"), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_captured_graph_repeats_the_step(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.empty(2500, 64, device="cuda", dtype=dtype)
    labels = torch.empty(2500, device="cuda", dtype=torch.int64)

    def fill() -> None:
        embeddings.copy_(torch.randn(2500, 64, generator=generator) + 0.3)
        labels.copy_(torch.randint(300, (2500,), generator=generator))

    def step() -> list[Tensor]:
        return losses_and_gradients(CASE, Batch(embeddings, labels), upstream, "cuda")

    upstream = torch.rand(2500, device="cuda")
    assert_replays(fill, step, 1e-8)


def test_memory_beside_rows_and_gradients_is_constant() -> None:
    beside = []
    for rows in (8192, 32768):
        embeddings = torch.randn(rows, 64, device="cuda", dtype=torch.bfloat16)
        batch = Batch(embeddings, torch.arange(rows, device="cuda") // 8)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        losses_and_gradients(CASE, batch, torch.ones(rows, device="cuda"), "cuda")
        peak = torch.cuda.max_memory_allocated() - before
        beside.append(peak - rows * 64 * (2 + 2 + 4 + 2 + 2))  # leaf, units, sums, two gradients
    assert beside[1] - beside[0] < (32768 - 8192) * 512
