"""Which backend a run says that it used."""

from __future__ import annotations

import json

import pytest

import fastdml
from fastdml.errors import BackendError
from fastdml.losses import CircleLoss, MultiSimilarityLoss
from fastdml.training import catalogue
from fastdml.training.catalogue import LossEntry
from fastdml.training.environment import backend_of
from fastdml.training.loss_work import LossWork

BATCH = LossWork("multi-similarity", dim=8, samples_per_class=4, classes=4).batch(16)
with_cpu = pytest.mark.skipif("cpu" not in fastdml.available_backends(), reason="no native CPU backend here")


@with_cpu
def test_it_is_the_first_that_can_compute_the_loss():
    assert backend_of(MultiSimilarityLoss(), *BATCH) == ("cpu", "the first choice here")
    # the exponents of this preset leave the range of float32
    found = backend_of(CircleLoss.preset("face"), *BATCH)
    assert found == ("blocked", "cpu has no kernels for this loss")
    assert fastdml.backends.registry.asked_backend() is None


@with_cpu
def test_one_that_was_asked_for_is_used_or_refused():
    with fastdml.use_backend("reference"):
        assert backend_of(MultiSimilarityLoss(), *BATCH) == ("reference", "asked for")
    with fastdml.use_backend("cpu"), pytest.raises(BackendError, match="'cpu' was asked for"):
        backend_of(CircleLoss.preset("face"), *BATCH)


@with_cpu
def test_a_run_names_the_backend_of_its_loss(run, monkeypatch, tmp_path):
    face = LossEntry(lambda *sizes: CircleLoss.preset("face"), "for tests")
    monkeypatch.setitem(catalogue.LOSSES, "face", face)
    with pytest.raises(BackendError, match="'cpu' was asked for"):
        run(loss="face", backend="cpu")
    assert not (tmp_path / "run").exists()
    _, path = run(loss="face", backend=None, steps=2)
    assert json.loads((path / "metrics.json").read_text())["environment"]["backend"] == "blocked"
