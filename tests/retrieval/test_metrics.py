"""Recall@K, the result object, neighbours and the errors of bad input."""

from __future__ import annotations

import math

import pytest
import torch

from fastdml.errors import InputError
from fastdml.retrieval import evaluate, nearest_neighbours, neighbours, recall_at_k


def unit_rows(count, width, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, width, generator=generator), dim=1)


def test_recall_by_hand():
    # On a line of angles: 0 and 10 degrees are class 0, 15 and 90 class 1, 200 alone.
    angles = torch.deg2rad(torch.tensor([0.0, 10.0, 15.0, 90.0, 200.0]))
    x = torch.stack([angles.cos(), angles.sin()], dim=1)
    labels = torch.tensor([0, 0, 1, 1, 2])
    result = evaluate(x, labels, ks=(1, 2, 4))
    # 0 finds 10. 10 meets 15 before 0. 15 meets 10 and 0 before 90. 90 finds 15.
    assert result.first_hit_rank.tolist() == [1, 2, 3, 1, 0]
    assert result.recall == {1: 0.5, 2: 0.75, 4: 1.0}
    assert (result.queries, result.queries_without_positive) == (4, 1)


def test_perfect_classes_reach_one():
    x = torch.eye(6).repeat_interleave(3, dim=0)
    assert recall_at_k(x, torch.arange(18) // 3) == {1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0}


def test_scale_matters_only_without_normalisation():
    x = unit_rows(80, 8, seed=1)
    labels = torch.arange(80) % 8
    scaled = x * torch.linspace(0.1, 9.0, 80)[:, None]
    assert recall_at_k(scaled, labels) == recall_at_k(x, labels)
    assert recall_at_k(scaled, labels, normalise=False) != recall_at_k(x, labels)


def test_one_sample_has_nothing_to_find():
    result = evaluate(torch.ones(1, 4), torch.tensor([3]))
    assert math.isnan(result.recall[1])
    assert (result.queries, result.queries_without_positive) == (0, 1)


def test_neighbours_leave_the_query_out_and_are_sorted(monkeypatch):
    monkeypatch.setattr(neighbours, "GALLERY_BLOCK", 13)
    monkeypatch.setattr(neighbours, "QUERY_BLOCK", 5)
    x = unit_rows(50, 8, seed=2)
    labels = torch.arange(50) % 10
    similarity = (x.double() @ x.double().T).fill_diagonal_(-2)
    expected_values, expected = similarity.topk(6, dim=1)
    indices, values = nearest_neighbours(x, labels, 6)
    assert torch.equal(indices, expected)
    torch.testing.assert_close(values.double(), expected_values, rtol=0, atol=1e-6)

    chosen = [41, 3]
    picked, _ = evaluate(x, labels).neighbours(chosen, k=6)
    assert torch.equal(picked, expected[chosen])


def test_first_hit_agrees_with_the_neighbours():
    x = unit_rows(300, 6, seed=3)
    labels = torch.arange(300) % 30
    result = evaluate(x, labels)
    indices, _ = result.neighbours(range(300), k=299)
    hit = labels[indices] == labels[:, None]
    assert torch.equal(hit.int().argmax(dim=1) + 1, result.first_hit_rank)


def test_fewer_rows_than_neighbours_asked_for():
    indices, values = nearest_neighbours(unit_rows(3, 4, seed=4), torch.zeros(3, dtype=torch.long), 5)
    assert (indices[:, 2:] == -1).all()
    assert torch.isinf(values[:, 2:]).all()
    assert (indices[:, :2] >= 0).all()


def test_no_queries_chosen():
    indices, values = evaluate(unit_rows(3, 4, seed=5), torch.zeros(3, dtype=torch.long)).neighbours([], k=2)
    assert indices.shape == (0, 2)
    assert values.shape == (0, 2)


X = torch.ones(4, 3)
Y = torch.zeros(4, dtype=torch.long)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: recall_at_k(torch.empty(0, 3), Y[:0]),
            InputError,
            r"embeddings must hold at least one row.*\[0, 3\]",
        ),
        (lambda: recall_at_k(X[0], Y), InputError, r"embeddings must have shape \[N, D\], got \[3\]"),
        (lambda: recall_at_k(X, Y[:3]), InputError, r"labels must have shape \[4\], got \[3\]"),
        (
            lambda: recall_at_k(X, Y.float()),
            InputError,
            "labels must be of an integer dtype, got torch.float32",
        ),
        (lambda: recall_at_k(X.long(), Y), InputError, "embeddings must be float16.*got torch.int64"),
        (lambda: recall_at_k([[1.0]], Y), InputError, "embeddings must be a torch.Tensor, got list"),
        (lambda: recall_at_k(X * float("nan"), Y), InputError, "embeddings must be finite, got 4 of 4 rows"),
        (lambda: recall_at_k(X, Y, ks=()), InputError, "ks must be whole numbers"),
        (lambda: recall_at_k(X, Y, ks=(0, 1)), InputError, r"ks must be whole numbers.*\[0, 1\]"),
        (lambda: recall_at_k(X, Y, ks=(1.5,)), InputError, "ks must be whole numbers"),
        (lambda: recall_at_k(X, Y, gallery=X), InputError, "gallery_labels was not given"),
        (
            lambda: recall_at_k(X, Y, gallery=X[:, :2], gallery_labels=Y),
            InputError,
            "gallery must have 3 columns.*2",
        ),
        (
            lambda: recall_at_k(X, Y, gallery=X[:0], gallery_labels=Y[:0]),
            InputError,
            "gallery must hold at least",
        ),
        (lambda: recall_at_k(X, Y, self_index=Y), InputError, "self_index is accepted only with a gallery"),
        (
            lambda: recall_at_k(X, Y, gallery=X, gallery_labels=Y, self_index=Y + 4),
            InputError,
            r"self_index must lie in \[-1, 3\].*from 4 to 4",
        ),
        (
            lambda: recall_at_k(X, Y, tie_tolerance=-1.0),
            InputError,
            "tie_tolerance must be None or at least 0",
        ),
        (lambda: nearest_neighbours(X, Y, 0), InputError, "k must be at least 1, got 0"),
        (lambda: evaluate(X, Y).neighbours([4]), InputError, r"queries must lie in \[0, 3\], got 4 to 4"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
