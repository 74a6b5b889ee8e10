"""NMI and AMI of k-means."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from retrieval_definition import unit_rows

from fastdml.retrieval import MissingPackageError, evaluate


@pytest.fixture(autouse=True)
def packages():
    pytest.importorskip("faiss")
    pytest.importorskip("sklearn")


def test_clusters_that_are_the_classes_score_one():
    labels = torch.arange(60) // 20
    near = torch.eye(3)[labels] + 0.01 * unit_rows(60, 3, seed=2).float()
    found = evaluate(near, labels, clusters=True, seed=3)
    assert found.clustering.nmi == pytest.approx(1.0)
    assert found.clustering.ami == pytest.approx(1.0)
    assert (found.clustering.clusters, found.clustering.seed) == (3, 3)
    assert "NMI          100.00 %" in str(found)
    assert str(found).endswith("k-means of 3 clusters, seed 3")
    assert found.to_dict()["seed"] == 3


def test_chance_is_taken_from_ami_and_not_from_nmi():
    x, labels = unit_rows(200, 16, seed=4).float(), torch.arange(200) // 5
    found = evaluate(x, labels, clusters=True).clustering
    assert found.nmi > 0.5
    assert abs(found.ami) < 0.1
    assert found == evaluate(x, labels, clusters=True).clustering


def test_a_missing_package_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("faiss", "sklearn") else find(name)
    )
    with pytest.raises(
        MissingPackageError,
        match=r"faiss-cpu and scikit-learn, not installed here: pip install .fastdml\[evaluate\]",
    ):
        evaluate(torch.eye(4), torch.tensor([0, 0, 1, 1]), clusters=True)
