"""Ranks of positives against a full sort, and where ties, duplicates and exclusions decide."""

from __future__ import annotations

import pytest
import torch
from retrieval_definition import integer_rows, positive_ranks, random_labels, unit_rows

from fastdml.backends import use_backend
from fastdml.resident_memory import can_measure, high_water, release_freed_memory, reset_high_water
from fastdml.retrieval import blocked, evaluate
from fastdml.retrieval.layout import tie_width


def ranks_of(x, labels, **options):
    """Ranks of all positives of every query, as lists."""
    result = evaluate(x, labels, **options)
    found = [ranks.tolist() for ranks in result.positive_ranks(range(result.first_hit_rank.numel()))]
    assert [ranks[0] if ranks else 0 for ranks in found] == result.first_hit_rank.tolist()
    return found


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_equals_a_full_sort_with_many_ties(counting, small_blocks, dtype):
    x, labels = integer_rows(150, 5, seed=1), random_labels(150, 12, seed=2)
    assert ranks_of(x.to(dtype), labels, normalise=False) == positive_ranks(x, labels)


# Of 1,100 rows a block is 512; of 3 classes a query has more positives than the kernel compares one by one.
@pytest.mark.parametrize(("count", "classes"), [(1100, 200), (1100, 3), (513, 60)])
def test_equals_a_full_sort_across_blocks(counting, count, classes):
    x, labels = unit_rows(count, 9, seed=3), random_labels(count, classes, seed=4)
    assert ranks_of(x, labels) == positive_ranks(x, labels)


def test_equals_a_full_sort_where_queries_go_in_chunks(counting, small_blocks, in_chunks):
    x, labels = integer_rows(90, 4, seed=5), random_labels(90, 5, seed=6)
    assert ranks_of(x, labels, normalise=False) == positive_ranks(x, labels)


@pytest.mark.parametrize("with_cameras", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
def test_query_and_gallery_that_share_some_rows(counting, small_blocks, request, with_cameras, chunked):
    if chunked:
        request.getfixturevalue("in_chunks")
    x, labels = unit_rows(120, 16, seed=7), random_labels(120, 9, seed=8)
    query, gallery = torch.arange(70).flip(0), torch.randperm(120, generator=torch.Generator().manual_seed(9))
    gallery = gallery[:80]
    options = {"cameras": random_labels(120, 3, seed=10)} if with_cameras else {}
    expected = positive_ranks(x, labels, query, gallery, **options)
    assert ranks_of(x, labels, query=query, gallery=gallery, **options) == expected
    mask = torch.zeros(120, dtype=torch.bool)
    mask[gallery] = True
    assert ranks_of(x, labels, query=query, gallery=mask, **options) == expected


@pytest.mark.parametrize("compared", [0, 10_000])
def test_both_ways_of_counting_in_pytorch(monkeypatch, small_blocks, compared):
    """Comparing with each threshold, and looking up among them."""
    monkeypatch.setattr(blocked, "COMPARED", compared)
    x, labels = integer_rows(200, 4, seed=11), random_labels(200, 6, seed=12)
    with use_backend("blocked"):
        assert ranks_of(x, labels, normalise=False) == positive_ranks(x, labels)


def test_a_class_of_half_the_set(counting):
    labels = torch.where(torch.arange(700) % 2 == 0, -5, torch.arange(700) // 4)
    x = unit_rows(700, 6, seed=13)
    assert ranks_of(x, labels) == positive_ranks(x, labels)


def test_same_identity_and_camera_is_ignored_by_hand(counting):
    # The query at 0 degrees, then the gallery by angle.
    angles = [0.0, 5.0, 10.0, 20.0, 30.0, 40.0]
    labels = torch.tensor([1, 1, 2, 1, 1, 2])
    cameras = torch.tensor([0, 0, 0, 1, 0, 1])
    turned = torch.deg2rad(torch.tensor(angles))
    x = torch.stack([turned.cos(), turned.sin()], dim=1)
    options = {"query": torch.tensor([0]), "gallery": torch.arange(1, 6)}
    # Without cameras: hits at 5, 20 and 30 degrees, one wrong at 10.
    assert ranks_of(x, labels, **options) == [[1, 3, 4]]
    # With them only that at 20 degrees: 5 and 30 are ignored, and do not push it back.
    result = evaluate(x, labels, cameras=cameras, **options)
    assert result.positive_ranks([0])[0].tolist() == [2]
    assert result.mean_average_precision == 0.5
    # A query that only its own camera saw has nothing to find.
    cameras[3] = 0
    assert evaluate(x, labels, cameras=cameras, **options).queries_without_positive == 1


def test_a_tie_goes_against_the_query(counting):
    # The query's positive and one negative are mirror images: bitwise the same similarity.
    x = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8], [-1.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 1])
    assert evaluate(x, labels).first_hit_rank[0] == 2
    assert evaluate(x, labels, tie_tolerance=0).first_hit_rank[0] == 2


def test_a_tie_up_to_rounding_goes_against_the_query_unless_told_otherwise(counting):
    x = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6 - 6e-8, -0.8], [-1.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 1])
    assert x[2, 0] < x[1, 0]
    assert evaluate(x, labels, normalise=False).first_hit_rank[0] == 2
    assert evaluate(x, labels, normalise=False, tie_tolerance=0).first_hit_rank[0] == 1


@pytest.mark.parametrize("width", [3, 64, 100, 512])
@pytest.mark.parametrize("value", [0.0, 0.37, None])
def test_a_collapsed_model_gets_the_worst_ranks(counting, width, value):
    row = unit_rows(1, width, seed=15).float() if value is None else torch.full((1, width), value)
    x, labels = row.repeat(600, 1), torch.arange(600) % 20
    result = evaluate(x, labels, ks=(1, 570, 571))
    assert torch.equal(result.first_hit_rank, torch.full((600,), 1 + 570))
    assert result.recall == {1: 0.0, 570: 0.0, 571: 1.0}
    assert (result.r_precision, result.map_at_r) == (0.0, 0.0)
    assert result.positive_ranks([5])[0].tolist() == list(range(571, 600))


@pytest.mark.parametrize("width", [32, 128, 512, 2048])
def test_ties_are_as_wide_as_the_order_of_a_sum_makes_them(width):
    """A product adds its terms one by one, or in parts: in either order equal rows must be a tie."""
    x = torch.nn.functional.normalize(unit_rows(4000, width, seed=17).float(), dim=1)
    terms = (x * x).unflatten(1, (8, -1))

    def in_turn(parts: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(parts.shape[0])
        for number in range(parts.shape[1]):
            total += parts[:, number]
        return total

    one_by_one = in_turn(terms.flatten(1))
    in_parts = in_turn(torch.stack([in_turn(terms[:, part]) for part in range(8)], dim=1))
    apart = float((one_by_one - in_parts).abs().max())
    assert apart < tie_width(torch.float32, width) < 2.5 * apart


def test_ties_of_many_dimensions_are_wider():
    """A sum of more terms rounds more: eight units are a tie at 512 dimensions, and none at 32."""
    near, far = torch.tensor([[1.0, 0.0]]), torch.tensor([[1 - 8 * 2.0**-23, 0.0]])
    x, labels = torch.cat([near, far, near]), torch.tensor([0, 1, 0])
    for width, rank in ((32, 1), (512, 2)):
        padded = torch.nn.functional.pad(x, (0, width - 2))
        assert evaluate(padded, labels, normalise=False).first_hit_rank[0] == rank


@pytest.mark.parametrize("of", [torch.backends, torch.backends.cuda.matmul, torch.backends.mkldnn.matmul])
def test_callers_settings_of_products_are_left_as_they_were(counting, of):
    """Settings of either kind: torch's older readers raise once the newer ones were used."""
    x, labels = unit_rows(60, 8, seed=16), torch.arange(60) // 4
    expected = evaluate(x, labels).recall
    kinds = (torch.backends, torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before = [each.fp32_precision for each in kinds]
    try:
        of.fp32_precision = "tf32"
        found = [each.fp32_precision for each in kinds]
        assert evaluate(x, labels).recall == expected
        assert [each.fp32_precision for each in kinds] == found
        of.fp32_precision = "ieee"  # what follows it still does
        assert all(each.fp32_precision != "tf32" for each in kinds)
    finally:
        for each, precision in zip(kinds, before, strict=True):
            each.fp32_precision = precision


def test_duplicates_across_classes_tie_wherever_they_stand(counting):
    """Copies of each row under other labels, far apart: equal up to rounding, so never ahead of the copy."""
    half = unit_rows(700, 67, seed=14).float()
    x, labels = torch.cat([half, half]), torch.arange(1400) // 2
    found = evaluate(x, labels)
    assert (found.first_hit_rank > 1).all()


def test_self_is_left_out_by_index_so_a_duplicate_still_counts(counting):
    x, labels = unit_rows(40, 8, seed=15), torch.arange(40) // 2
    x[1] = x[0]  # a true duplicate: the nearest neighbour, and right
    x[10] = x[20]  # two classes share a point: each is the other's nearest, and wrong
    found = evaluate(x, labels).first_hit_rank
    assert found[0] == found[1] == 1
    assert found[10] > 1
    assert found[20] > 1


def test_queries_without_a_positive_have_no_ranks(counting):
    x = unit_rows(5, 4, seed=16)
    assert ranks_of(x, torch.tensor([0, 0, 1, 2, 3]))[2:] == [[], [], []]
    assert ranks_of(x, torch.arange(5)) == [[]] * 5
    assert ranks_of(x[:1], torch.tensor([0])) == [[]]


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_labels_of_any_integer_dtype(counting, dtype):
    x, labels = integer_rows(60, 6, seed=17), random_labels(60, 6, seed=18)
    query, gallery = torch.arange(30), torch.arange(20, 60)
    expected = positive_ranks(x, labels, query, gallery)
    found = ranks_of(x, labels.to(dtype), query=query.to(dtype), gallery=gallery.to(dtype), normalise=False)
    assert found == expected


def test_any_memory_layout(counting):
    x, labels = integer_rows(60, 12, seed=19), random_labels(120, 6, seed=20)[::2]
    expected = positive_ranks(x, labels)
    assert ranks_of(x.T.contiguous().T, labels, normalise=False) == expected


def test_overflow_counts_against_the_query(counting):
    """Finite rows whose products are not: infinity and NaN must not look like a hit."""
    x = torch.tensor([[1e30, 1e30], [1e30, -1e30], [1e30, 1e30], [-1e30, 1e30]])
    found = evaluate(x, torch.tensor([0, 0, 1, 1]), normalise=False).first_hit_rank
    assert found[0] > 1


def test_caller_settings_neither_change_the_ranks_nor_are_changed(counting):
    x, labels = unit_rows(200, 32, seed=21).float(), torch.arange(200) % 40
    expected = evaluate(x, labels).first_hit_rank
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(evaluate(x.requires_grad_(), labels).first_hit_rank, expected)
            assert torch.is_autocast_enabled("cpu")
        assert torch.is_grad_enabled()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_number_of_threads_does_not_matter(counting):
    x, labels = unit_rows(1300, 8, seed=22).float(), random_labels(1300, 150, seed=23)
    expected = evaluate(x, labels).average_precision
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(evaluate(x, labels).average_precision, expected)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif(not can_measure(), reason="this system does not let a process reset its high-water mark")
def test_memory_is_linear(counting):
    """At 20,000 embeddings a similarity matrix would take 1.6 GB."""
    x, labels = unit_rows(20_000, 8, seed=24).float(), torch.arange(20_000) % 4000
    evaluate(x[:2000], labels[:2000])  # threads and libraries
    release_freed_memory()
    before = reset_high_water()
    assert (evaluate(x, labels).first_hit_rank >= 1).all()
    assert high_water() - before < 64e6
