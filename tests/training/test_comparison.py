"""A comparison: who is held out, what is looked at when, and that it goes on where it was stopped."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

from fastdml.losses import SoftTripleLoss
from fastdml.retrieval import MissingPackageError
from fastdml.training import ConfigError, catalogue
from fastdml.training.catalogue import DATASETS, LOSSES, LossEntry
from fastdml.training.comparison import Cell, Protocol, cell_training, compare
from fastdml.training.comparison.folder import ComparisonFolder
from fastdml.training.comparison.holdout import hold_out_classes, perturbed
from fastdml.training.evaluation import embed
from fastdml.training.run import read_lines

PROTOCOL = Protocol(
    data="tiny",
    steps=4,
    batch=12,
    embedding_dim=8,
    network_width=4,
    warmup_steps=1,
    evaluations=2,
    backend="reference",
    device="cpu",
)
PAIR = ["soft-triple", "normalised-softmax"]


class Watcher:
    """A display that remembers what it was told."""

    def __init__(self):
        self.began, self.cells, self.done, self.closed = [], [], [], 0
        self.after_step = lambda record: None

    def begin(self, done, total):
        self.began.append((done, total))

    def on_cell(self, loss, seed):
        self.cells.append((loss, seed))

    def on_step(self, record, steps):
        self.after_step(record)

    def on_chunk(self, done, total):
        pass

    def on_note(self, text):
        raise AssertionError(text)

    def on_cell_done(self, cell):
        self.done.append((cell.loss, cell.seed))

    def close(self):
        self.closed += 1


@pytest.fixture
def go(tiny_data, tmp_path):
    """Compare on the tiny data: go(losses, seeds) -> (outcome, what the display saw, folder)."""

    def run(losses=PAIR, seeds=(0,), out="comparison", protocol=PROTOCOL, overwrite=False, after_step=None):
        watcher, path = Watcher(), tmp_path / out
        if after_step is not None:
            watcher.after_step = after_step
        return compare(protocol, losses, seeds, path, watcher, overwrite=overwrite), watcher, path

    return run


@pytest.fixture
def broken(monkeypatch):
    """A loss `broken` in the catalogue that is NaN from its third step on."""

    class Broken(nn.Module):
        calls = 0

        def forward(self, embeddings, labels):
            self.calls += embeddings.requires_grad and torch.is_grad_enabled()
            return embeddings.sum() * (float("nan") if self.calls > 2 else 0.0)

    entry = LossEntry(lambda classes, width: Broken(), "for tests", None, samples_per_class=2)
    monkeypatch.setitem(catalogue.LOSSES, "broken", entry)
    return "broken"


def without_times(path):
    """comparison.json without what differs from run to run."""
    content = json.loads((path / "comparison.json").read_text())
    for row in content["losses"]:
        del row["seconds"]
    return content


def test_no_class_is_both_trained_on_and_validated_on():
    train = DATASETS["glyphs"].load("train")
    training, validation = hold_out_classes(train, 0.2, seed=0)
    held, kept = set(validation.labels.tolist()), set(training.labels.tolist())
    assert (len(kept), len(held)) == (160, 40)
    assert not held & kept
    assert held | kept == set(train.labels.tolist())
    assert not held & set(DATASETS["glyphs"].load("test").labels.tolist())
    for row in (0, 100, 639):
        same = (train.labels == validation.labels[row]) & (train.domains == validation.domains[row])
        assert torch.equal(train.images[same][0], validation.images[row])
    assert len(training) + len(validation) == len(train)


def test_the_seed_alone_decides_which_classes_are_held_out():
    train = DATASETS["glyphs"].load("train")
    held = [set(hold_out_classes(train, 0.2, seed)[1].labels.tolist()) for seed in (0, 0, 1)]
    assert held[0] == held[1] != held[2]


def test_too_few_classes_to_hold_some_out_are_refused():
    train = DATASETS["glyphs"].load("train")
    few = hold_out_classes(train, 0.2, 0)[0]
    mask = few.labels <= few.labels.unique()[2]
    three = replace(
        few,
        images=few.images[mask],
        labels=few.labels[mask],
        is_query=few.is_query[mask],
        is_gallery=few.is_gallery[mask],
        domains=few.domains[mask],
    )
    with pytest.raises(ConfigError, match="at least 4 training classes to hold 2 of them out, got 3"):
        hold_out_classes(three, 0.2, 0)


def test_validation_images_are_perturbed_the_same_way_every_time():
    split = hold_out_classes(DATASETS["glyphs"].load("train"), 0.2, 0)[1]
    once, again, other = (perturbed(split, seed).images for seed in (0, 0, 1))
    assert once.dtype == torch.uint8
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert not torch.equal(once, split.images)


def test_the_test_classes_are_looked_at_once_a_cell_and_last(go, monkeypatch):
    looks = []

    def spy(model, split, device):
        looks.append(split.name)
        return embed(model, split, device)

    monkeypatch.setattr(cell_training, "embed", spy)
    go(seeds=(0, 1))
    assert looks == ["tiny/train/validation", "tiny/train/validation", "tiny/test"] * 4


def test_the_weights_of_the_best_validation_are_what_is_tested(go, monkeypatch):
    """Recall on the held-out classes is made to be best at the second of three looks."""
    scores, weights, tested = [0.5, 0.9, 0.7], [], []

    class Found:
        def __init__(self, recall):
            self.result = self
            self.recall = {1: recall}

    def spy(model, split, device):
        (tested if split.name == "tiny/test" else weights).append(model.head.weight.detach().clone())
        return embed(model, split, device)

    monkeypatch.setattr(cell_training, "retrieve", lambda embeddings, split: Found(scores[len(weights) - 1]))
    monkeypatch.setattr(cell_training, "embed", spy)
    outcome, _, _ = go(["soft-triple"], protocol=replace(PROTOCOL, steps=6, evaluations=3))
    (cell,) = outcome.cells
    assert cell.validation == ((2, 0.5), (4, 0.9), (6, 0.7))
    assert cell.best_step == 4
    assert torch.equal(tested[0], weights[1])
    assert not torch.equal(tested[0], weights[2])


def test_all_losses_begin_with_the_same_weights_and_held_out_classes(go, monkeypatch):
    begun = []

    def spy(config, training):
        model = make_network(config, training)
        begun.append((model.head.weight.detach().clone(), training.labels))
        return model

    make_network = cell_training.make_network
    monkeypatch.setattr(cell_training, "make_network", spy)
    go(seeds=(3, 4))
    (first, labels), (second, others), (another, _), _ = begun
    assert torch.equal(first, second)
    assert torch.equal(labels, others)
    assert not torch.equal(first, another)


def test_the_cells_come_seed_by_seed(go):
    _, watcher, path = go(seeds=(0, 1))
    assert watcher.cells == [(loss, seed) for seed in (0, 1) for loss in PAIR]
    assert {file.name for file in (path / "cells").iterdir()} == {
        f"{loss}-{seed}.json" for loss in PAIR for seed in (0, 1)
    }
    assert len(read_lines(path / "logs" / "soft-triple-1" / "log.jsonl")) == 4


def test_what_is_finished_is_kept_and_the_rest_comes_out_the_same(go):
    whole = go(seeds=(0, 1), out="whole")[2]
    steps = []

    def stop_in_the_third_cell(record):
        steps.append(record.step)
        if len(steps) == 10:
            os.kill(os.getpid(), signal.SIGINT)

    outcome, watcher, path = go(seeds=(0, 1), out="parts", after_step=stop_in_the_third_cell)
    assert (outcome.signal_name, outcome.to_come) == ("SIGINT", 2)
    assert watcher.closed == 1
    assert without_times(path)["to_come"] == 2
    assert {cell.name for cell in outcome.cells} == {f"{loss}-0" for loss in PAIR}
    kept = {file: file.read_bytes() for file in (path / "cells").iterdir()}

    outcome, watcher, _ = go(seeds=(0, 1), out="parts")
    assert (outcome.signal_name, outcome.to_come) == (None, 0)
    assert watcher.began == [(2, 4)]
    assert watcher.cells == [(loss, 1) for loss in PAIR]
    assert all(file.read_bytes() == content for file, content in kept.items())
    assert without_times(path) == without_times(whole)


def test_losses_and_seeds_can_be_added(go):
    go(["soft-triple"])
    outcome, watcher, _ = go(["soft-triple", "normalised-softmax"], seeds=(0, 1))
    assert watcher.cells == [("normalised-softmax", 0), ("soft-triple", 1), ("normalised-softmax", 1)]
    assert len(outcome.cells) == 4
    assert {cell.name for cell in go(["soft-triple"])[0].cells} == {cell.name for cell in outcome.cells}


def test_another_protocol_is_refused_by_name_and_changes_nothing(go):
    path = go(["soft-triple"])[2]
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    other = replace(PROTOCOL, steps=5, learning_rate=0.01)
    with pytest.raises(ConfigError, match=r"steps was 4, is 5; learning_rate was 0.005, is 0.01 \(overwrite"):
        go(["soft-triple"], protocol=other)
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    outcome, watcher, _ = go(["normalised-softmax"], protocol=other, overwrite=True)
    assert watcher.began == [(0, 1)]
    assert [cell.name for cell in outcome.cells] == ["normalised-softmax-0"]


def test_another_version_or_device_is_another_protocol(go):
    path = go(["soft-triple"])[2]
    header = json.loads((path / "protocol.json").read_text())
    header["versions"]["fastdml"], header["device"] = "0.0.1", "a GPU"
    (path / "protocol.json").write_text(json.dumps(header))
    with pytest.raises(ConfigError, match=r"device was a GPU, is cpu; fastdml was 0\.0\.1, is "):
        go(["soft-triple"])
    header["machine"]["threads"] = 99  # told, not compared
    header |= {"device": "cpu"}
    header["versions"]["fastdml"] = __import__("fastdml").__version__
    (path / "protocol.json").write_text(json.dumps(header))
    assert go(["soft-triple"])[1].cells == []


def test_a_loss_that_changed_in_the_catalogue_is_refused(go, monkeypatch):
    go(["soft-triple"])
    entry = LOSSES["soft-triple"]
    changed = {
        "got .* center_rate 7": replace(entry, center_rate=7),
        "got .* la=3": replace(entry, build=lambda *sizes: SoftTripleLoss(*sizes, la=3)),
    }
    for message, other in changed.items():
        monkeypatch.setitem(LOSSES, "soft-triple", other)
        with pytest.raises(ConfigError, match=f"soft-triple must be as in the cells.*{message}"):
            go(["soft-triple"])


def test_a_loss_that_is_not_finite_is_a_failed_cell(go, broken):
    outcome, _, path = go([broken, "soft-triple"])
    cells = {cell.loss: cell for cell in outcome.cells}
    assert cells["broken"].failure == (
        "step 3 gave loss nan; its batch is in logs/broken-0/failed_batch.safetensors"
    )
    assert (path / "logs/broken-0/failed_batch.safetensors").exists()
    assert cells["broken"].recall is cells["broken"].nmi is cells["broken"].best_step is None
    assert cells["broken"].validation == ((2, cells["broken"].validation[0][1]),)
    assert cells["soft-triple"].failure is None
    assert outcome.to_come == 0
    assert "| broken | failed |" in (path / "comparison.md").read_text()
    assert go([broken])[1].cells == []  # a failed cell is not tried again


def test_weights_that_are_not_finite_after_the_last_step_are_a_failed_cell(go, monkeypatch):
    monkeypatch.setattr(
        cell_training, "embed", lambda model, split, device: torch.full((len(split), 8), float("inf"))
    )
    (cell,) = go(["soft-triple"])[0].cells
    assert cell.failure == "the embeddings after step 2 are not finite"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": ["tripplet"]}, "loss must be one of"),
        ({"losses": []}, "losses must name at least one, got none"),
        ({"seeds": (-1,)}, "seed must be at least 0, got -1"),
        ({"losses": ["triplet"]}, "batch must be a multiple of samples_per_class"),
        ({"protocol": replace(PROTOCOL, batch=16)}, "batch needs 8 classes, but tiny has only 6 to train on"),
        ({"protocol": replace(PROTOCOL, device="tpu")}, "device must be auto"),
        ({"protocol": replace(PROTOCOL, data="mnist")}, "data must be one of"),
    ],
)
def test_what_cannot_work_is_refused_and_leaves_nothing(go, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        go(**changes)
    assert not (tmp_path / "comparison").exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("validation_share", 1.0, "validation_share must lie between 0 and 1, got 1.0"),
        ("evaluations", 0, "evaluations must be at least 1, got 0"),
    ],
)
def test_settings_of_a_protocol(name, value, message):
    with pytest.raises(ConfigError, match=message):
        Protocol(**{name: value})


def test_without_the_packages_of_nmi_nothing_is_trained(go, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "faiss" else found(name))
    with pytest.raises(MissingPackageError, match=r"NMI.*faiss-cpu.*pip install 'fastdml\[evaluate\]'"):
        go()
    assert not (tmp_path / "comparison").exists()


def test_a_cell_survives_its_file(tmp_path):
    cell = Cell("a", 1, 2, 40.0, 3.5, "cpu", None, ((5, 0.25), (10, 0.5)), 10, {1: 0.5, 8: 0.75}, 0.25)
    folder = ComparisonFolder(tmp_path)
    folder.start({"settings": {}})
    folder.keep(cell)
    assert folder.cells() == [cell]
    (tmp_path / "cells" / "b-0.json").write_text('{"loss": "b"}')
    with pytest.raises(ConfigError, match=r"b-0\.json: a cell must hold the fields of a Cell"):
        folder.cells()


def test_a_file_in_its_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="out must be a directory, got the file"):
        ComparisonFolder(tmp_path / "file")
