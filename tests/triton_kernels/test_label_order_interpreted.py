"""Rows in the order of their labels: by counting, and by torch's sort, against a loop over the labels."""

from __future__ import annotations

import pytest
import torch
from interpreted_pairs import check, random_batch
from pair_cases import CASES
from torch import Tensor

from fastdml.triton_kernels import configs
from fastdml.triton_kernels.label_order import order_by_label

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def expected(
    labels: list[int], ref_labels: list[int] | None, own: list[int]
) -> tuple[list[int], list[list[int]]]:
    """Order and spans, as fastdml/engines/pair_ops.py describes them."""

    def sort(values: list[int]) -> list[int]:
        return sorted(range(len(values)), key=lambda at: (values[at], at))

    def spans(values: list[int], others: list[int]) -> list[tuple[int, int]]:
        return [(sum(o < v for o in others), sum(o <= v for o in others)) for v in sorted(values)]

    order = sort(labels)
    if ref_labels is None:
        found = spans(labels, labels)
        return order, [[a for a, _ in found], [b for _, b in found], list(range(len(labels)))]
    ref_order = sort(ref_labels)
    found = spans(labels, ref_labels) + spans(ref_labels, labels)
    places = [ref_order.index(own[at]) if own[at] >= 0 else -1 for at in order]
    own_places = places + [-1] * len(ref_labels)
    return order + ref_order, [[a for a, _ in found], [b for _, b in found], own_places]


def labels_of(kind: str, count: int, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    if kind == "one class":
        return torch.full((count,), -3)
    if kind == "huge":
        ends = torch.tensor([torch.iinfo(torch.int64).min, -1, 0, torch.iinfo(torch.int64).max])
        return ends[torch.randint(4, (count,), generator=random)]
    return torch.randint(-4, 5, (count,), generator=random)


@pytest.mark.parametrize("limit", [0, 8192], ids=["sorted", "counted"])
@pytest.mark.parametrize("kind", ["few classes", "one class", "huge"])
@pytest.mark.parametrize(("count", "refs"), [(1, None), (33, None), (200, None), (70, 150), (150, 1)])
def test_order_and_spans(
    monkeypatch: pytest.MonkeyPatch, device: str, count: int, refs: int | None, kind: str, limit: int
) -> None:
    monkeypatch.setattr(configs, "COUNTED_ROWS", limit)
    labels = labels_of(kind, count, 0)
    ref_labels = None if refs is None else labels_of(kind, refs, 1)
    own = torch.full((count,), -1)
    if ref_labels is not None:
        for at in range(0, count, 3):
            same = (ref_labels == labels[at]).nonzero()[:, 0]
            own[at] = same[at % len(same)] if len(same) else -1
    total = count + (refs or 0)
    order = torch.empty(total, dtype=torch.int64, device=device)
    spans = torch.empty(3, total, dtype=torch.int32, device=device)
    given = [labels, ref_labels, None if refs is None else own]
    order_by_label(*(None if one is None else one.to(device) for one in given), order, spans)
    wanted_order, wanted_spans = expected(
        labels.tolist(), None if ref_labels is None else ref_labels.tolist(), own.tolist()
    )
    assert order.tolist() == wanted_order
    assert spans.tolist() == wanted_spans


def test_labels_need_not_be_neighbours_in_memory(device: str) -> None:
    labels = torch.tensor([2, 9, 1, 9, 2, 9], device=device)[::2]
    order = torch.empty(3, dtype=torch.int64, device=device)
    spans = torch.empty(3, 3, dtype=torch.int32, device=device)
    order_by_label(labels, None, None, order, spans)
    assert order.tolist() == [1, 0, 2]
    assert spans.tolist() == [[0, 1, 1], [1, 3, 3], [0, 1, 2]]


@pytest.mark.parametrize("refs", [0, 60])
def test_the_loss_after_a_sort(monkeypatch: pytest.MonkeyPatch, refs: int) -> None:
    monkeypatch.setattr(configs, "COUNTED_ROWS", 0)
    check(CASES["multi-similarity, mined"], random_batch(50, 16, refs))
