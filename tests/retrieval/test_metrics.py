"""The metrics against other implementations, the result object, and the errors of bad input."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from retrieval_definition import integer_rows, random_labels, sorted_hits, unit_rows
from retrieval_definition import metrics as defined_metrics

from fastdml.errors import InputError
from fastdml.retrieval import evaluate, metrics, nearest_neighbours, neighbours, recall_at_k


def summary(result, k):
    return [result.recall[k], result.r_precision, result.map_at_r, result.mean_average_precision]


@pytest.mark.parametrize("together", [1 << 18, 40])
def test_metrics_equal_their_definitions(counting, monkeypatch, together):
    monkeypatch.setattr(metrics, "_TOGETHER", together)
    x, labels = integer_rows(150, 5, seed=1), random_labels(150, 40, seed=2)
    hits = sorted_hits(x, labels)
    assert any(not hit.any() for hit in hits), "choose another seed: every query has a positive"
    result = evaluate(x, labels, ks=(3,), normalise=False)
    assert summary(result, 3) == pytest.approx(defined_metrics(hits, 3), abs=1e-12)
    assert result.queries == sum(hit.any() for hit in hits)
    assert result.per_query.positives.tolist() == [int(hit.sum()) for hit in hits]


def test_equals_pytorch_metric_learning(counting):
    pytest.importorskip("faiss")
    calculator_module = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator")
    x = unit_rows(300, 12, seed=3).float()
    labels = torch.arange(300) % 40  # 7 or 8 a class
    found = calculator_module.AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        k="max_bin_count",
        device=torch.device("cpu"),
    ).get_accuracy(x, labels)
    result = evaluate(x, labels, ks=(1,))
    assert result.recall[1] == pytest.approx(found["precision_at_1"], abs=1e-9)
    assert result.r_precision == pytest.approx(found["r_precision"], abs=1e-9)
    assert result.map_at_r == pytest.approx(found["mean_average_precision_at_r"], abs=1e-9)
    assert 0 < result.map_at_r < result.r_precision < 0.5


def test_average_precision_equals_scikit_learn(counting):
    average_precision_score = pytest.importorskip("sklearn.metrics").average_precision_score
    x, labels = unit_rows(200, 10, seed=4), random_labels(200, 12, seed=5)
    result = evaluate(x, labels)
    for query in range(200):
        others = np.arange(200) != query
        expected = average_precision_score((labels == labels[query])[others], (x @ x[query])[others])
        assert float(result.average_precision[query]) == pytest.approx(expected, abs=1e-12)


def test_recall_equals_faiss_exact_search(counting):
    faiss = pytest.importorskip("faiss")
    x, labels = unit_rows(600, 24, seed=12).float(), torch.arange(600) % 120
    index = faiss.IndexFlatIP(24)
    index.add(x.numpy())
    order = torch.from_numpy(index.search(x.numpy(), 600)[1])
    found = order[order != torch.arange(600)[:, None]].reshape(600, 599)  # the query itself, by index
    hits = labels[found] == labels[:, None]
    expected = {k: float(hits[:, :k].any(dim=1).double().mean()) for k in (1, 10, 100)}
    assert recall_at_k(x, labels, ks=(1, 10, 100)) == expected
    assert expected[1] < expected[10] < expected[100]


def test_by_hand():
    # On a line of angles: 0 and 10 degrees are class 0, 15 and 90 class 1, 200 alone.
    angles = torch.deg2rad(torch.tensor([0.0, 10.0, 15.0, 90.0, 200.0]))
    x = torch.stack([angles.cos(), angles.sin()], dim=1)
    result = evaluate(x, torch.tensor([0, 0, 1, 1, 2]), ks=(1, 2, 4))
    # 0 finds 10. 10 meets 15 before 0. 15 meets 10 and 0 before 90. 90 finds 15.
    assert result.first_hit_rank.tolist() == [1, 2, 3, 1, 0]
    assert result.recall == {1: 0.5, 2: 0.75, 4: 1.0}
    assert (result.queries, result.queries_without_positive) == (4, 1)
    assert result.average_precision[:4].tolist() == pytest.approx([1, 1 / 2, 1 / 3, 1])
    assert math.isnan(result.average_precision[4])
    assert result.mean_average_precision == pytest.approx((1 + 1 / 2 + 1 / 3 + 1) / 4)
    assert result.r_precision == result.map_at_r == 0.5
    assert result.cmc(3).tolist() == pytest.approx([0.5, 0.75, 1.0])
    assert result.worst(3).tolist() == [2, 1, 0]
    assert result.worst().tolist() == [2, 1, 0, 3]
    assert str(result) == (
        "Recall@1      50.00 %\n"
        "Recall@2      75.00 %\n"
        "Recall@4     100.00 %\n"
        "R-precision   50.00 %\n"
        "MAP@R         50.00 %\n"
        "mAP           70.83 %\n"
        "4 queries, gallery of 5; 1 more have no positive there"
    )
    numbers = json.loads(json.dumps(result.to_dict()))
    assert numbers["recall_at_2"] == 0.75
    assert numbers["queries_without_positive"] == 1


def test_perfect_classes_reach_one(counting):
    x = torch.eye(6).repeat_interleave(3, dim=0)
    result = evaluate(x, torch.arange(18) // 3, ks=(1,))
    assert summary(result, 1) == [1.0, 1.0, 1.0, 1.0]


def test_scale_matters_only_without_normalisation(counting):
    x, labels = unit_rows(80, 8, seed=6).float(), torch.arange(80) % 8
    scaled = x * torch.linspace(0.1, 9.0, 80)[:, None]
    assert recall_at_k(scaled, labels) == recall_at_k(x, labels)
    assert recall_at_k(scaled, labels, normalise=False) != recall_at_k(x, labels)


def test_nothing_to_find():
    result = evaluate(torch.ones(1, 4), torch.tensor([3]))
    assert all(math.isnan(value) for value in summary(result, 1))
    assert (result.queries, result.queries_without_positive) == (0, 1)
    assert result.worst().tolist() == []


def test_neighbours_leave_the_query_out_and_are_sorted(monkeypatch):
    monkeypatch.setattr(neighbours, "GALLERY_BLOCK", 13)
    monkeypatch.setattr(neighbours, "QUERY_BLOCK", 5)
    x, labels = unit_rows(50, 8, seed=7), torch.arange(50) % 10
    query, gallery = torch.arange(5, 30), torch.arange(49, 10, -1)
    similarity = x[query] @ x[gallery].T
    similarity[query[:, None] == gallery] = -2
    expected_values, expected = similarity.topk(6, dim=1)
    indices, values = nearest_neighbours(x.float(), labels, 6, query=query, gallery=gallery)
    assert torch.equal(indices, expected)
    torch.testing.assert_close(values.double(), expected_values, rtol=0, atol=1e-6)

    chosen = [14, 3]
    picked, _ = evaluate(x, labels, query=query, gallery=gallery).neighbours(chosen, k=6)
    assert torch.equal(picked, expected[chosen])


def test_first_hit_agrees_with_the_neighbours():
    x, labels = unit_rows(300, 6, seed=8), torch.arange(300) % 30
    result = evaluate(x, labels)
    indices, _ = result.neighbours(range(300), k=299)
    hit = labels[indices] == labels[:, None]
    assert torch.equal(hit.int().argmax(dim=1) + 1, result.first_hit_rank)


def test_fewer_rows_than_neighbours_asked_for():
    indices, values = nearest_neighbours(unit_rows(3, 4, seed=9), torch.zeros(3, dtype=torch.long), 5)
    assert (indices[:, 2:] == -1).all()
    assert torch.isinf(values[:, 2:]).all()
    assert (indices[:, :2] >= 0).all()


def test_no_queries_chosen():
    result = evaluate(unit_rows(3, 4, seed=10), torch.zeros(3, dtype=torch.long))
    indices, values = result.neighbours([], k=2)
    assert indices.shape == values.shape == (0, 2)
    assert result.positive_ranks([]) == []


X = torch.ones(4, 3)
Y = torch.zeros(4, dtype=torch.long)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evaluate(torch.empty(0, 3), Y[:0]), r"embeddings must hold at least one row.*\[0, 3\]"),
        (lambda: evaluate(X[0], Y), r"embeddings must have shape \[N, D\], got \[3\]"),
        (lambda: evaluate(X, Y[:3]), r"labels must have shape \[4\], got \[3\]"),
        (lambda: evaluate(X, Y.float()), "labels must be of an integer dtype, got torch.float32"),
        (lambda: evaluate(X.long(), Y), "embeddings must be float16.*got torch.int64"),
        (lambda: evaluate([[1.0]], Y), "embeddings must be a torch.Tensor, got list"),
        (lambda: evaluate(X * float("nan"), Y), "embeddings must be finite, got 4 of 4 rows"),
        (lambda: evaluate(X, Y, ks=()), "ks must be whole numbers"),
        (lambda: evaluate(X, Y, ks=(0, 1)), r"ks must be whole numbers.*\[0, 1\]"),
        (lambda: evaluate(X, Y, ks=(1.5,)), "ks must be whole numbers"),
        (lambda: evaluate(X, Y, cameras=Y[:2]), r"cameras must have shape \[4\], got \[2\]"),
        (lambda: evaluate(X, Y, query=[0]), "query must be a torch.Tensor, got list"),
        (lambda: evaluate(X, Y, query=Y[:2] > 0), r"query as a mask must have shape \[4\], got \[2\]"),
        (lambda: evaluate(X, Y, query=Y > 0), "query must choose at least one row, got none"),
        (lambda: evaluate(X, Y, gallery=X), r"gallery must be a mask.*got torch.float32 \[4, 3\]"),
        (lambda: evaluate(X, Y, gallery=Y + 4), r"gallery must name rows in \[0, 3\], got 4 to 4"),
        (lambda: evaluate(X, Y, gallery=Y), "gallery must name each row once"),
        (lambda: evaluate(X, Y, tie_tolerance=-1.0), "tie_tolerance must be None or at least 0"),
        (lambda: nearest_neighbours(X, Y, 0), "k must be at least 1, got 0"),
        (lambda: evaluate(X, Y).neighbours([4]), r"queries must lie in \[0, 3\], got 4 to 4"),
        (lambda: evaluate(X, Y).positive_ranks([-1]), r"queries must lie in \[0, 3\], got -1 to -1"),
        (lambda: evaluate(X, Y).cmc(0), "k must be at least 1, got 0"),
        (lambda: evaluate(X, Y).worst(-1), "n must be at least 0, got -1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
