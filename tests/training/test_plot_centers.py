"""The figure of the centres' number shows what training did, and its tool measures what merging does."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # tools stand beside the package

from fastdml.losses import SoftTripleLoss
from fastdml.training import catalogue
from fastdml.training.backbones import make_network
from fastdml.training.centers import DELTAS
from tools import plot_centers

CONFIG = replace(
    plot_centers.CONFIG, steps=6, batch=8, embedding_dim=8, network_width=4, warmup_steps=1, evaluations=3
)


@pytest.fixture
def load_tiny(tiny_data):
    return catalogue.find_dataset("tiny").load


@pytest.fixture
def found(monkeypatch, load_tiny):
    monkeypatch.setattr(plot_centers.glyphs, "load", load_tiny)
    return plot_centers.measure(CONFIG, more_steps=2)


def test_counts_and_merged_losses_are_measured(found):
    assert [run["tau"] for run in found["runs"]] == [10.0, 0.2, 0.0]
    for run in found["runs"]:
        assert run["per_class"] == 20
        assert [one["delta"] for one in run["counts"]] == list(DELTAS)
        assert [point["step"] for point in run["counts"][0]["curve"]] == [0, 2, 4, 6]
    *with_tau, without = found["runs"]
    assert "merged" not in without
    for run in with_tau:
        assert [one["delta"] for one in run["merged"]] == [None, *DELTAS]
        assert run["merged"][0]["centers"] == 8 * 20
        for one, counts in zip(run["merged"][1:], run["counts"], strict=True):
            assert one["centers"] == pytest.approx(8 * counts["curve"][-1]["mean"])


def test_gradients_are_told_apart(found, load_tiny):
    """The regulariser's is of every centre and grows with tau; the softmax's is what is left."""
    strong, paper, _ = (run.get("gradients") for run in found["runs"])
    assert min(*strong.values(), *paper.values()) > 0
    torch.manual_seed(0)
    model = make_network(CONFIG, load_tiny("train"))
    losses = [SoftTripleLoss(8, 8, centers_per_class=20, tau=tau) for tau in (0.2, 10.0)]
    losses[1].load_state_dict(losses[0].state_dict())
    weak, strong = (plot_centers._gradients(model, loss, load_tiny("train"), CONFIG) for loss in losses)
    assert strong["regulariser"] == pytest.approx(50 * weak["regulariser"], rel=1e-3)
    assert strong["softmax"] == pytest.approx(weak["softmax"], rel=1e-5)


def test_the_same_measurement_gives_the_same_figure(found, tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        plot_centers.write_figures(tmp_path / name, json.loads(json.dumps(found)))
    for name in plot_centers.LOOKS:
        first, second = ((tmp_path / folder / name).read_bytes() for folder in ("first", "second"))
        assert first == second
        assert first.startswith(b"<?xml")


def test_accuracy_is_that_of_the_closest_class(load_tiny):
    """Centres that are the embeddings' own classes are found; those of other classes are not."""
    split = load_tiny("train")
    torch.manual_seed(0)
    model = make_network(CONFIG, split).eval()
    loss = SoftTripleLoss(8, 8, centers_per_class=6)
    with torch.no_grad():
        loss.fc.copy_(model(split.batch(torch.arange(48))).T)
        right = plot_centers._training_accuracy(model, loss, split, seed=0)
        loss.fc.copy_(loss.fc.roll(6, dims=1))
        wrong = plot_centers._training_accuracy(model, loss, split, seed=0)
    assert right > 2 * wrong
