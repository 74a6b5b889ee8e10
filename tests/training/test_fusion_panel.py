"""The panel measures what it says it measures."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import fastdml
from fastdml import resident_memory
from fastdml.training import fusion_memory, fusion_panel
from fastdml.training.loss_work import LossWork

CPU = torch.device("cpu")
MS = LossWork("multi-similarity", dim=16, samples_per_class=8, classes=3)


def test_the_probe_sees_the_dense_matrices():
    """The dense form must hold several N x N matrices, so its peak has a floor and grows with N squared."""
    if not resident_memory.can_measure():
        pytest.skip("this system does not let a process reset its high-water mark")
    sizes = (1024, 2048)
    found = fusion_memory.peak_memory(replace(MS, dim=32), "reference", sizes, timeout=120)
    assert set(found) == set(sizes)
    for size in sizes:
        assert found[size] > 2 * 4 * size * size
        assert found[size] < 20 * 4 * size * size
    assert 3.5 < found[2048] / found[1024] < 4.5


def test_a_process_that_is_cut_off_gives_what_it_has():
    found = fusion_memory.peak_memory(MS, "reference", [64], timeout=0.01)
    assert found == {}


@pytest.mark.skipif("cpu" not in fastdml.available_backends(), reason="no native CPU backend here")
def test_rows_are_measured_and_sensible(monkeypatch):
    peaks = {"cpu": {64: 1000, 128: 2000}, "reference": {64: 50_000}}
    monkeypatch.setattr(resident_memory, "can_measure", lambda: True)
    monkeypatch.setattr(fusion_memory, "peak_memory", lambda work, name, *rest, **more: peaks[name])
    before = fastdml.backends.registry.asked_backend()
    panel = fusion_panel.measure(MS, "cpu", CPU, seconds=2.0, sizes=(64, 128))
    assert fastdml.backends.registry.asked_backend() == before
    assert [row.batch for row in panel.rows] == [64, 128]
    for row in panel.rows:
        assert row.rounds >= 3
        assert 1e-6 < row.fused_seconds < 1
        assert 1e-6 < row.dense_seconds < 1
    assert [row.fused_bytes for row in panel.rows] == [1000, 2000]
    assert [row.dense_bytes for row in panel.rows] == [50_000, None]
    assert panel.to_dict()["rows"][0]["batch"] == 64


def test_sizes_that_do_not_fit_into_the_time_are_left_out(monkeypatch):
    monkeypatch.setattr(fusion_panel, "_time_steps", lambda loss, backend, batch, repeats: 0.5)
    monkeypatch.setattr(resident_memory, "can_measure", lambda: False)
    panel = fusion_panel.measure(MS, "cpu", CPU, seconds=4.0, sizes=(16, 32, 64))
    assert [row.batch for row in panel.rows] == [16]
    assert "not measured" in panel.how


@pytest.mark.parametrize(
    "name", ["triplet-semihard", "triplet-batch-hard", "margin", "lifted", "soft-triple", "proxy-anchor"]
)
def test_losses_that_are_mined_or_learn_are_measured_too(monkeypatch, name):
    monkeypatch.setattr(resident_memory, "can_measure", lambda: False)
    panel = fusion_panel.measure(replace(MS, loss=name), "blocked", CPU, seconds=2.0, sizes=(32,))
    assert [row.batch for row in panel.rows] == [32]


def test_asked_to_stop_it_stops():
    panel = fusion_panel.measure(MS, "cpu", CPU, go_on=lambda: False)
    assert panel.rows == []


def test_the_reference_is_not_compared_with_itself():
    panel = fusion_panel.measure(MS, "reference", CPU)
    assert panel.rows == []
    assert "nothing to compare" in panel.how


def test_batches_have_the_asked_shape_and_are_the_same_each_time():
    work = replace(MS, dim=5)
    embeddings, labels = work.batch(40)
    assert embeddings.shape == (40, 5)
    assert embeddings.requires_grad
    assert labels.bincount().tolist() == [8] * 5
    assert torch.equal(embeddings, work.batch(40)[0])


def test_a_loss_with_centres_is_measured_with_those_of_the_training_classes(monkeypatch):
    monkeypatch.setattr(resident_memory, "can_measure", lambda: False)
    work = replace(MS, loss="soft-triple")
    assert work.make().num_classes == 3
    assert work.batch(40)[1].bincount().tolist() == [16, 16, 8]
    panel = fusion_panel.measure(work, "blocked", CPU, seconds=2.0, sizes=(40,))
    assert panel.classes == panel.to_dict()["classes"] == 3
    assert fusion_panel.measure(MS, "blocked", CPU, seconds=2.0, sizes=(16,)).classes is None


def test_the_probe_measures_a_loss_with_centres():
    """Its dense form holds the similarities of every sample and every centre of every class."""
    if not resident_memory.can_measure():
        pytest.skip("this system does not let a process reset its high-water mark")
    work = LossWork("soft-triple", dim=16, samples_per_class=8, classes=200)
    found = fusion_memory.peak_memory(work, "reference", (1024,), timeout=120)
    assert 4 * 1024 * 200 * 10 < found[1024] < 20 * 4 * 1024 * 200 * 10
