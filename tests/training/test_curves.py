"""The figure of training curves compares what it says it compares."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # tools stand beside the package

from fastdml.training import TrainConfig
from tools import plot_curves
from tools.curve_training import LIBRARIES, PANELS, Curve

CONFIG = TrainConfig(steps=2, network_width=4, embedding_dim=8, warmup_steps=1)


@pytest.mark.parametrize("name", PANELS)
def test_a_panel_is_the_same_loss_under_both_libraries(name):
    panel = PANELS[name]
    random = torch.Generator().manual_seed(1)
    labels = torch.arange(48) // 4
    found = []
    points = torch.randn(12, 8, generator=random)[labels] + torch.randn(48, 8, generator=random)
    for library in LIBRARIES:
        loss = panel.make(library)
        assert type(loss).__module__.startswith(f"{library}.")
        embeddings = points.clone().requires_grad_()
        value = loss(embeddings, labels)
        value.backward()
        found.append((value.detach(), embeddings.grad))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=0)
    torch.testing.assert_close(
        found[0][1], found[1][1], rtol=1e-4, atol=1e-5 * float(found[0][1].abs().max())
    )


def test_finished_panels_are_kept_and_others_trained(tmp_path, monkeypatch):
    trained = []

    def train(panel, library, config, train_split, test_split, on_step, shaken=False):
        trained.append(panel)
        return Curve([2.0, 1.0 if library == "fastdml" else 1.25], 0.5, 0.75)

    monkeypatch.setattr(plot_curves, "train", train)
    path = tmp_path / "curves.json"
    first = plot_curves.measure(path, ["SupCon"], CONFIG, again=False)
    assert trained == [PANELS["SupCon"]] * 3
    assert json.loads(path.read_text()) == first
    assert first["panels"]["SupCon"]["largest_relative_difference"] == 0.2
    assert first["panels"]["SupCon"]["largest_relative_difference_by_rounding"] == 0
    both = plot_curves.measure(path, ["Circle", "SupCon"], CONFIG, again=False)
    assert trained[3:] == [PANELS["Circle"]] * 3
    assert list(both["panels"]) == ["Circle", "SupCon"]
    plot_curves.measure(path, ["SupCon"], CONFIG, again=True)
    assert len(trained) == 9
    longer = TrainConfig(**{**CONFIG.to_dict(), "steps": 3})
    plot_curves.measure(path, ["SupCon"], longer, again=False)
    assert len(trained) == 12


def test_training_repeats_itself_and_rounding_changes_it(tiny_data):
    from fastdml.training.catalogue import find_dataset
    from tools import curve_training

    splits = find_dataset("tiny").load("train"), find_dataset("tiny").load("test")
    panel = curve_training.Panel("ContrastiveLoss", batch=32)
    config = TrainConfig(**{**CONFIG.to_dict(), "steps": 12, "samples_per_class": 4})
    once, again = (curve_training.train(panel, "fastdml", config, *splits, lambda: None) for _ in range(2))
    shaken = curve_training.train(panel, "fastdml", config, *splits, lambda: None, shaken=True)
    assert once.losses == again.losses
    assert 0 < plot_curves.largest_difference(once, shaken) < 1e-2
    other = curve_training.train(panel, "pytorch_metric_learning", config, *splits, lambda: None)
    assert plot_curves.largest_difference(once, other) < 1e-2
