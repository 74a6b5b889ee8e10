"""Ranks of positives with the counting kernel, by Triton's interpreter, against plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastdml.backends import triton, use_backend
from fastdml.retrieval import blocked, evaluate, rank_ops
from fastdml.triton_kernels import ranks

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def counted(similarity: Tensor, thresholds: Tensor, spans: Tensor, first: int) -> Tensor:
    """What the kernel has to add."""
    column = first + torch.arange(similarity.shape[1])
    start, end, own = spans[:, :, None]
    negative = ~((column >= start) & (column < end)) & (column != own)
    reached = ~(similarity[:, None, :] < thresholds[:, :, None])
    return (reached & negative[:, None, :]).sum(dim=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("queries", "columns", "count"), [(1, 1, 1), (3, 511, 8), (2, 513, 9), (2, 1100, 17), (1, 5000, 2)]
)
def test_counts(device: str, queries: int, columns: int, count: int, dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(columns)
    # few values, so that many are equal
    similarity = torch.randint(-5, 5, (queries, columns), generator=random).to(dtype)
    similarity[:, ::7] = torch.nan
    thresholds = torch.randint(-5, 6, (queries, count), generator=random).to(dtype)
    thresholds[:, -1] = torch.inf
    first = 40
    spans = torch.tensor([[first + 3], [first + 20], [first + columns - 1]], dtype=torch.int32).repeat(
        1, queries
    )
    spans[2, 0] = -1
    before = torch.randint(100, (queries, count), generator=random, dtype=torch.int32)
    found = before.to(device, copy=True)
    ranks.count_reached(similarity.to(device), thresholds.to(device), found, spans.to(device), first)
    assert torch.equal(found.long().cpu(), before + counted(similarity, thresholds, spans, first))


@pytest.mark.parametrize("classes", [4, 30])
@pytest.mark.parametrize("with_cameras", [False, True])
def test_ranks_are_those_of_plain_pytorch(
    monkeypatch: pytest.MonkeyPatch, device: str, classes: int, with_cameras: bool
) -> None:
    for name in ("QUERY_BLOCK", "DEVICE_QUERY_BLOCK"):
        monkeypatch.setattr(blocked, name, 50)
    monkeypatch.setattr(blocked, "GALLERY_BLOCK", 70)
    monkeypatch.setattr(blocked, "DEVICE_BLOCK", 50 * 70)
    monkeypatch.setattr(ranks, "MOST_THRESHOLDS", 12)  # of 4 classes a query has more, of 30 fewer
    random = torch.Generator().manual_seed(classes)
    x = torch.randint(-2, 3, (150, 5), generator=random).double()
    labels = torch.randint(classes, (150,), generator=random)
    cameras = torch.randint(3, (150,), generator=random).to(device)
    options = {"cameras": cameras} if with_cameras else {}
    launched = []
    kernel = ranks.count_reached
    monkeypatch.setattr(ranks, "count_reached", lambda *given: (launched.append(1), kernel(*given)))
    found = {}
    for backend in ("triton", "blocked"):
        with use_backend(backend):
            result = evaluate(x.to(device), labels.to(device), normalise=False, **options)
            found[backend] = [one.tolist() for one in result.positive_ranks(range(150))]
    assert found["triton"] == found["blocked"]
    assert bool(launched) == (classes == 30)


def test_the_kernel_counts_only_where_it_can() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert rank_ops.counting_kernel(cpu) is None  # its C++ is faster
    with use_backend("triton"):  # under the interpreter
        runs = triton.on_device_of_first(ranks.count_reached)
        assert rank_ops.counting_kernel(cpu) == rank_ops.counting_kernel(gpu) == (runs, 128)
    with use_backend("blocked"):
        assert rank_ops.counting_kernel(gpu) is None
