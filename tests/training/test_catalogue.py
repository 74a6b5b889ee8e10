"""Every loss that can be trained with by name: it learns, and so do its own parameters."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fastdml import losses
from fastdml.losses import HybridFATLoss, MultipleLosses, PairLoss, ProxyLoss
from fastdml.losses.centered import CenteredLoss
from fastdml.training import NonFiniteLossError, catalogue
from fastdml.training.catalogue import LOSSES, LossEntry
from fastdml.training.checkpoint import read_tensors
from fastdml.training.run import read_lines

CLASSES, SAMPLES = 8, 4
CENTERED = [name for name, entry in LOSSES.items() if entry.center_rate is not None]


def bare_loss(name: str) -> nn.Module:
    """The loss of an entry, without its miner."""
    made = LOSSES[name].make(CLASSES, 8)
    return made.losses["0"] if isinstance(made, MultipleLosses) else made


def least_value(name: str) -> float:
    """The loss where every class is one point and all classes are as far from each other as they can be;
    their centres, where there are any, are these points.
    """
    corners = torch.eye(CLASSES) - 1 / CLASSES
    labels = torch.arange(CLASSES).repeat_interleave(SAMPLES)
    loss = LOSSES[name].make(CLASSES, CLASSES)
    if isinstance(loss, CenteredLoss):
        corners *= 10 / corners[0].norm()  # the lengths are SphereFace's own
        rows = corners.repeat_interleave(loss.centers_per_class, 0)
        loss.centers.data.copy_(rows.T if loss.columns else rows)
    return loss(corners[labels], labels).item()


def test_every_loss_of_the_package_has_an_entry():
    shipped = {getattr(losses, name) for name in losses.__all__}
    abstract = {PairLoss, losses.RuleLoss, ProxyLoss}
    others = losses.FATLoss | losses.ClusteringLoss
    trained = {kind for kind in shipped if issubclass(kind, PairLoss | CenteredLoss | others)} - abstract
    assert {type(bare_loss(name)) for name in LOSSES} == trained


def test_entries_differ_and_say_what_they_are():
    assert len({repr(entry.make(CLASSES, 8)) for entry in LOSSES.values()}) == len(LOSSES)
    assert len({entry.about for entry in LOSSES.values()}) == len(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_with_centres_are_made_for_the_classes_and_the_width(name):
    loss = LOSSES[name].make(CLASSES, 6)
    assert isinstance(loss, CenteredLoss | HybridFATLoss) == (name in CENTERED)
    if name in CENTERED:
        assert (loss.num_classes, loss.embedding_size) == (CLASSES, 6)


@pytest.mark.parametrize("name", LOSSES)
def test_training_brings_the_loss_to_its_least(run, name):
    _, path = run(
        loss=name, steps=40, batch=CLASSES * SAMPLES, evaluations=1, network_width=8, augment=False,
        backend=None,
    )  # fmt: skip
    found = [line["loss"] for line in read_lines(path / "log.jsonl")]
    start, end, least = sum(found[:4]) / 4, sum(found[-8:]) / 8, least_value(name)
    assert end - least < 0.4 * (start - least)
    assert (path / "loss.safetensors").exists() == (name == "margin" or name in CENTERED)


def test_what_the_loss_learns_is_trained_and_saved(run):
    _, path = run(loss="margin", steps=8, evaluations=1)
    learnt, metadata = read_tensors(path / "loss.safetensors")
    assert metadata == {"loss": "margin", "stopped_by": "steps"}
    assert learnt.keys() == {"beta"}
    start = LOSSES["margin"].make(CLASSES, 8).beta
    assert (learnt["beta"] - start).abs().item() > 1e-3
    run(loss="triplet", steps=2, evaluations=1, overwrite=True)
    assert not (path / "loss.safetensors").exists()


class Offset(nn.Module):
    """A loss that has a parameter: its gradient is ``slope``, and nothing of it reaches the embeddings."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(1))
        self.slope = slope

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (embeddings * 0).sum() + self.slope * (self.offset - self.offset.detach()).sum()


def test_a_parameter_of_the_loss_gets_the_gradient_of_one_step(run, monkeypatch):
    """AdamW without decay moves a parameter of constant gradient by the learning rate at every step; one
    whose gradients add up from step to step moves by another amount.
    """
    monkeypatch.setitem(catalogue.LOSSES, "offset", LossEntry(lambda *sizes: Offset(0.5), "for tests"))
    _, path = run(loss="offset", steps=5, evaluations=1, learning_rate=0.01)
    rates = [line["learning_rate"] for line in read_lines(path / "log.jsonl")]
    offset = read_tensors(path / "loss.safetensors")[0]["offset"].item()
    assert math.isclose(offset, -sum(rates), rel_tol=1e-4)


def test_a_gradient_of_the_loss_that_is_not_finite_stops_the_run(run, monkeypatch):
    monkeypatch.setitem(catalogue.LOSSES, "offset", LossEntry(lambda *sizes: Offset(math.inf), "for tests"))
    with pytest.raises(NonFiniteLossError):
        run(loss="offset", steps=3)
