"""Ranks of first hits: against an exact search, and where ties, duplicates and exclusions decide."""

from __future__ import annotations

import pytest
import torch

from fastdml.errors import InputError
from fastdml.retrieval import first_hit_ranks, match_indices, ranks, recall_at_k


def brute_force_ranks(queries, labels, gallery, gallery_labels, own):
    """The definition, one query at a time, in float64."""
    found = []
    for i in range(len(queries)):
        similarity = gallery.double() @ queries[i].double()
        keep = torch.arange(len(gallery)) != own[i]
        positives = similarity[keep & (gallery_labels == labels[i])]
        negatives = similarity[keep & (gallery_labels != labels[i])]
        found.append(0 if len(positives) == 0 else 1 + int((negatives >= positives.max()).sum()))
    return torch.tensor(found)


def unit_rows(count, width, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, width, generator=generator), dim=1)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks that do not divide the data, so that every edge of the blocking is crossed."""
    monkeypatch.setattr(ranks, "QUERY_BLOCK", 7)
    monkeypatch.setattr(ranks, "GALLERY_BLOCK", 11)


@pytest.mark.parametrize("width", [8, 33])
def test_equals_the_definition_leave_one_out(small_blocks, width):
    x = unit_rows(150, width, seed=1)
    labels = torch.randint(0, 12, (150,), generator=torch.Generator().manual_seed(2))
    expected = brute_force_ranks(x, labels, x, labels, torch.arange(150))
    assert expected.max() > 3
    assert expected.min() == 1
    assert torch.equal(first_hit_ranks(x, labels), expected)


def test_equals_the_definition_with_a_gallery_that_holds_some_queries(small_blocks):
    x = unit_rows(120, 16, seed=3)
    labels = torch.randint(0, 9, (120,), generator=torch.Generator().manual_seed(4))
    query_ids, gallery_ids = torch.arange(0, 70), torch.arange(40, 120).flip(0)
    own = match_indices(query_ids, gallery_ids)
    expected = brute_force_ranks(x[query_ids], labels[query_ids], x[gallery_ids], labels[gallery_ids], own)
    found = first_hit_ranks(
        x[query_ids], labels[query_ids], x[gallery_ids], labels[gallery_ids], self_index=own
    )
    assert torch.equal(found, expected)
    counted_as_hit = first_hit_ranks(x[query_ids], labels[query_ids], x[gallery_ids], labels[gallery_ids])
    assert (counted_as_hit[40:] == 1).all()
    assert not (found[40:] == 1).all()


def test_equals_faiss_exact_search():
    faiss = pytest.importorskip("faiss")
    x = unit_rows(600, 24, seed=12)
    labels = torch.arange(600) % 120
    index = faiss.IndexFlatIP(24)
    index.add(x.numpy())
    _, order = index.search(x.numpy(), 600)
    order = torch.from_numpy(order)
    found = order[order != torch.arange(600)[:, None]].reshape(600, 599)  # the query itself, by index
    hits = labels[found] == labels[:, None]
    expected = hits.int().argmax(dim=1) + 1
    assert untied(x, labels).all(), "choose another seed: this one has ties up to rounding"
    assert torch.equal(first_hit_ranks(x, labels), expected)
    for k, value in recall_at_k(x, labels, ks=(1, 10, 100)).items():
        assert value == pytest.approx(float(hits[:, :k].any(dim=1).double().mean()), abs=0)


def untied(x, labels):
    """Whether no negative comes within rounding of a query's best positive."""
    similarity = x.double() @ x.double().T
    same = labels[:, None] == labels
    best = similarity.fill_diagonal_(-2).masked_fill(~same, -2).amax(dim=1, keepdim=True)
    return (similarity.masked_fill(same, 9) - best).abs().amin(dim=1) > 2e-6


def test_a_tie_goes_against_the_query():
    # The query's positive and one negative are mirror images: bitwise the same similarity.
    x = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8], [-1.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 1])
    assert first_hit_ranks(x, labels)[0] == 2
    assert first_hit_ranks(x, labels, tie_tolerance=0)[0] == 2


def test_a_tie_up_to_rounding_goes_against_the_query_unless_told_otherwise():
    x = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6 - 6e-8, -0.8], [-1.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 1])
    assert x[2, 0] < x[1, 0]
    assert first_hit_ranks(x, labels, normalise=False)[0] == 2
    assert first_hit_ranks(x, labels, normalise=False, tie_tolerance=0)[0] == 1


@pytest.mark.parametrize("width", [3, 64, 100])
@pytest.mark.parametrize("value", [0.0, 0.37])
def test_a_collapsed_model_gets_the_worst_rank(width, value):
    x = torch.full((600, width), value)
    labels = torch.arange(600) % 20
    assert torch.equal(first_hit_ranks(x, labels), torch.full((600,), 1 + 600 - 30))
    assert recall_at_k(x, labels, ks=(1, 8, 570)) == {1: 0.0, 8: 0.0, 570: 0.0}


def test_self_is_left_out_by_index_so_a_duplicate_still_counts():
    x = unit_rows(40, 8, seed=6)
    labels = torch.arange(40) // 2
    x[1] = x[0]  # a true duplicate: the nearest neighbour, and right
    x[10] = x[20]  # two classes share a point: each is the other's nearest, and wrong
    found = first_hit_ranks(x, labels)
    assert found[0] == 1
    assert found[1] == 1
    assert found[10] > 1
    assert found[20] > 1


def test_a_query_in_the_gallery_under_another_label_is_not_its_own_negative():
    gallery = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    found = first_hit_ranks(
        gallery[:1], torch.tensor([7]), gallery, torch.tensor([3, 7]), self_index=torch.tensor([0])
    )
    assert found.tolist() == [1]


def test_queries_without_a_positive_have_rank_zero():
    x = unit_rows(5, 4, seed=7)
    assert first_hit_ranks(x, torch.tensor([0, 0, 1, 2, 3]))[2:].tolist() == [0, 0, 0]
    assert first_hit_ranks(x[:1], torch.tensor([0])).tolist() == [0]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_integer_dtype_and_embeddings_of_any_float_dtype(dtype):
    x = unit_rows(60, 16, seed=8)
    labels = torch.arange(60) % 6
    expected = first_hit_ranks(x, labels)
    assert torch.equal(first_hit_ranks(x.double(), labels.to(dtype)), expected)
    half = x.bfloat16()
    assert torch.equal(first_hit_ranks(half, labels), first_hit_ranks(half.float(), labels))


def test_caller_settings_neither_change_the_ranks_nor_are_changed():
    x = unit_rows(400, 32, seed=9)
    labels = torch.arange(400) % 40
    expected = first_hit_ranks(x, labels)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(first_hit_ranks(x.requires_grad_(), labels), expected)
            assert torch.is_autocast_enabled("cpu")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_match_indices():
    assert match_indices(torch.tensor([5, 9, 2]), torch.tensor([2, 7, 5])).tolist() == [2, -1, 0]
    with pytest.raises(InputError, match="gallery_ids must be distinct"):
        match_indices(torch.tensor([1]), torch.tensor([2, 2]))


def test_memory_is_linear():
    """At 20,000 embeddings a similarity matrix would take 1.6 GB; here no allocation exceeds 20 MB."""
    count = 20_000
    x = unit_rows(count, 4, seed=10)
    labels = torch.arange(count) % 5000
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profile:
        found = first_hit_ranks(x, labels)
    allocated = [event.self_cpu_memory_usage for event in profile.events()]
    assert max(allocated) > 1_000_000, "the profiler saw no allocation, so it proves nothing"
    assert max(allocated) <= 20_000_000
    assert (found >= 1).all()
