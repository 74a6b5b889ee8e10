"""Every loss that can be trained with by name: it learns, and so do its own parameters."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from fastdml import losses
from fastdml.errors import InputError
from fastdml.losses import HybridFATLoss, MultipleLosses, PairLoss, ProxyLoss
from fastdml.losses.centered import CenteredLoss
from fastdml.training import NonFiniteLossError, catalogue
from fastdml.training.catalogue import LOSSES, LossEntry
from fastdml.training.checkpoint import read_tensors
from fastdml.training.config import ConfigError
from fastdml.training.loss_options import accepted_options
from fastdml.training.loss_work import LossWork
from fastdml.training.run import read_lines

CLASSES, SAMPLES = 8, 4
CENTERED = [name for name, entry in LOSSES.items() if entry.center_rate is not None]


def parts_of(name: str, **options: Any) -> tuple[nn.Module, nn.Module | None]:
    """The loss of an entry and its miner."""
    made = LOSSES[name].make(CLASSES, 8, **options)
    return (made.losses["0"], made.miners["0"]) if isinstance(made, MultipleLosses) else (made, None)


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
    assert {type(parts_of(name)[0]) for name in LOSSES} == trained


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
def test_every_option_reaches_the_loss(name):
    """What a loss is made with can be given as an option and makes the same loss; another value, another."""
    loss, miner = parts_of(name)
    for part, wrapped in ((loss, False), (miner, True)):
        for option in accepted_options(type(part)) if part is not None else ():
            value = getattr(part, option, None)
            value = round(value.item(), 4) if isinstance(value, torch.Tensor) else value  # learnt
            if option in ("preset", "distance") or value is None:
                continue
            same = {option: value}
            made = parts_of(name, **({"miner": same} if wrapped else same))[wrapped]
            assert repr(made) == repr(part)
            if isinstance(value, float) and option != "threshold":
                other = {option: value + 0.25}
                made = parts_of(name, **({"miner": other} if wrapped else other))[wrapped]
                assert torch.as_tensor(getattr(made, option)).item() == pytest.approx(value + 0.25)


def test_a_preset_stands_in_place_of_the_catalogues_arguments():
    assert parts_of("fat")[0].margin == 0.5
    authors = parts_of("fat", preset="authors", radius_weight=0.3)[0]
    assert (authors.margin, authors.negatives, authors.radius_weight) == (1.0, "batch:1", 0.3)
    assert parts_of("soft-triple", centers_per_class=4)[0].tau == 0.2
    assert parts_of("soft-triple", preset="pml")[0].tau == 0
    assert parts_of("hard-triple", preset="paper")[0].num_classes == CLASSES
    with pytest.raises(InputError, match="preset must be one of pml, paper, got 'mine'"):
        parts_of("contrastive", preset="mine")


def test_a_distance_is_given_by_its_name():
    loss, miner = parts_of("triplet-hard", distance="plain euclidean", miner={"distance": "cosine"})
    assert not loss.closeness.normalised
    assert (loss.closeness.kind, miner.closeness.kind) == ("euclidean", "inner")
    assert parts_of("contrastive", distance="squared euclidean")[0].closeness.kind == "squared"
    with pytest.raises(InputError, match="distance of CircleLoss must be"):
        parts_of("circle", distance="euclidean")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "triplet",
            {"margn": 1},
            "loss_options of TripletMarginLoss must be among distance, margin, preset, smooth_loss, swap, "
            "triplets_per_anchor, got 'margn' (near it: margin)",
        ),
        ("hard-triple", {"gamma": 0.1}, "got 'gamma'"),
        ("arcface", {"num_classes": 3}, "got 'num_classes'"),
        ("triplet", {"margin": "0.1"}, "loss_options.margin of TripletMarginLoss must be float, got '0.1'"),
        ("triplet", {"swap": 1}, "loss_options.swap of TripletMarginLoss must be bool, got 1"),
        ("triplet", {"margin": True}, "loss_options.margin of TripletMarginLoss must be float, got True"),
        ("fat", {"margin": "a"}, "must be float or none, got 'a'"),
        ("clustering", {"swaps": 2.5}, "loss_options.swaps of ClusteringLoss must be int, got 2.5"),
        ("triplet", {"distance": "city"}, "loss_options.distance must be one of cosine, dot product, euc"),
        ("triplet", {"miner": {}}, "loss_options.miner must be left out: this loss has no miner"),
        ("triplet-hard", {"miner": 3}, "loss_options.miner must be a table, got 3"),
        (
            "contrastive-mined",
            {"miner": {"margin": 1}},
            "loss_options.miner of PairMarginMiner must be among distance, neg_margin, pos_margin, got",
        ),
    ],
)
def test_options_that_cannot_work_are_named(name, options, message):
    with pytest.raises(ConfigError) as error:
        LOSSES[name].make(CLASSES, 8, **options)
    assert message in str(error.value)


def test_a_value_that_the_loss_refuses_is_its_own_error():
    with pytest.raises(InputError, match="tau must be a number from 0 on"):
        LOSSES["soft-triple"].make(CLASSES, 8, tau=-1.0)


def test_what_a_run_depends_on_names_its_options():
    entry = LOSSES["multi-similarity"]
    assert "alpha=2," in entry.settings
    assert "alpha=3," in entry.settings_with({"alpha": 3})
    assert entry.settings.endswith("center_rate None, samples_per_class 8")
    assert LOSSES["n-pairs"].samples_per_class == 2  # it takes no more of a class


def test_the_work_of_a_loss_has_its_options():
    work = LossWork("contrastive-mined", 8, 4, CLASSES, {"neg_margin": 0.5, "miner": {"neg_margin": 0.6}})
    made = work.make()
    assert (made.losses["0"].neg_margin, made.miners["0"].neg_margin) == (0.5, 0.6)


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
    assert metadata == {"loss": "margin", "stopped_by": "steps", "step": "8"}
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
