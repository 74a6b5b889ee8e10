"""A tiny data set with the shape of the real one, and a run on it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from fastdml.data import Split
from fastdml.training import TrainConfig, catalogue, run_experiment
from fastdml.training.catalogue import DatasetEntry
from fastdml.training.records import StepRecord


def tiny_split(name, first_class, classes, per_class=6):
    """Each class is a coarse pattern, each image a noisy copy; the last image of a class only queries."""
    generator = torch.Generator().manual_seed(first_class)
    patterns = (torch.rand(classes, 1, 8, 8, generator=generator) > 0.7).float()
    images = patterns.repeat_interleave(per_class, 0).repeat_interleave(4, 2).repeat_interleave(4, 3)
    images = (images + 0.6 * torch.rand(images.shape, generator=generator)).clamp(0, 1)
    labels = torch.arange(first_class, first_class + classes).repeat_interleave(per_class)
    position = torch.arange(classes * per_class) % per_class
    return Split(
        name=f"tiny/{name}",
        images=(255 * images).byte(),
        labels=labels,
        class_names=tuple(f"class <{i}> & co" for i in range(first_class + classes)),
        is_query=torch.ones(len(labels), dtype=torch.bool),
        is_gallery=position < per_class - 1,
        domains=(position == per_class - 1).long(),
        domain_names=("plain", "odd"),
    )


def load_tiny(name):
    return tiny_split("train", 0, 8) if name == "train" else tiny_split("test", 8, 6)


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small only wait for each other on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Recorder:
    """A display that remembers what it was told."""

    def __init__(self):
        self.records: list[StepRecord] = []
        self.planned: list[int] = []
        self.evaluations: list[int] = []
        self.phases: list[str] = []
        self.notes: list[str] = []
        self.closed = 0
        self.after_step = lambda record: None

    def on_step(self, record, steps):
        self.records.append(record)
        self.planned.append(steps)
        self.after_step(record)

    def on_chunk(self, done, total):
        pass

    def on_note(self, text):
        self.notes.append(text)

    def on_phase(self, text):
        self.phases.append(text)

    def on_evaluation(self, step: int, recall: Mapping[int, float]):
        self.evaluations.append(step)

    def close(self):
        self.closed += 1


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def tiny_data(monkeypatch):
    """The data set `tiny` in the catalogue: 8 classes to train on, 6 others to test on, 6 images each."""
    monkeypatch.setitem(catalogue.DATASETS, "tiny", DatasetEntry(load_tiny, "for tests"))


@pytest.fixture
def settings():
    return {
        "data": "tiny",
        "steps": 6,
        "batch": 16,
        "samples_per_class": 4,
        "embedding_dim": 8,
        "network_width": 4,
        "warmup_steps": 2,
        "evaluations": 2,
        "device": "cpu",
        "backend": "reference",
    }


@pytest.fixture
def run(tiny_data, settings, recorder, tmp_path):
    """Run with the tiny settings and what is given on top: run(steps=3) -> (result, directory)."""

    def go(out="run", panel_seconds=0.0, overwrite=False, resume=False, write_report=None, **changes):
        config = TrainConfig(**{**settings, **changes})
        path = tmp_path / out
        result = run_experiment(
            config, path, recorder, panel_seconds=panel_seconds, overwrite=overwrite, resume=resume,
            write_report=write_report,
        )  # fmt: skip
        return result, path

    return go
