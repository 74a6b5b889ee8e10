"""Runs on noisy labels: what is planted, what a teacher finds, what the loss is given, what a stop leaves."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
import torch.nn.functional as F

from fastdml.noise import DistilledLabels, NoConfidentSamplesError
from fastdml.soft_labels import SoftLabels
from fastdml.training import ConfigError, TrainConfig, catalogue
from fastdml.training.catalogue import LossEntry
from fastdml.training.run import read_lines

# few enough epochs not to learn 48 labels by heart
TEACHER = {"teacher_epochs": 6, "teacher_rounds": 1, "trust": 0.3, "network_width": 8, "learning_rate": 0.02}
FILES = [
    "config.json",
    "evaluations.jsonl",
    "log.jsonl",
    "metrics.json",
    "report.html",
    "weights.safetensors",
]
ALL_FILES = sorted([*FILES, "labels.safetensors", "noise.json", "teacher.pt"])


class SoftCentroids(torch.nn.Module):
    """The least loss that takes soft labels; remembers what it was given."""

    takes_soft_labels = True

    def __init__(self, classes):
        super().__init__()
        self.classes, self.given = classes, []

    def forward(self, embeddings, labels, confidence=None):
        self.given.append((labels, confidence))
        if not isinstance(labels, SoftLabels):
            return embeddings.square().mean()
        units, shares = F.normalize(embeddings), labels.dense(self.classes)
        centroids = F.normalize((shares * confidence[:, None]).T @ units)
        return -(shares * (10 * units @ centroids.T).log_softmax(1)).sum(1).mean()


@pytest.fixture
def soft_losses(monkeypatch):
    """The losses that were made for the name `soft`, the latest last."""
    made = []

    def make(classes, width):
        made.append(SoftCentroids(classes))
        return made[-1]

    monkeypatch.setitem(catalogue.LOSSES, "soft", LossEntry(make, "for tests"))
    return made


@pytest.fixture
def distilled_run(run, soft_losses):
    """run(...) with a teacher and planted noise."""

    def go(**changes):
        return run(**{"loss": "soft", "distill": True, "noise": 0.2, **TEACHER, **changes})

    return go


def test_the_files_tell_what_was_planted_and_found(distilled_run):
    result, path = distilled_run()
    assert sorted(file.name for file in path.iterdir()) == ALL_FILES
    found = DistilledLabels.load(path / "labels.safetensors")
    planted = result.labels.planted
    assert int(planted.is_noisy.sum()) == round(0.2 * 48)
    assert torch.equal(found.labels, planted.labels)
    precision, recall = found.precision_and_recall(planted.is_noisy)
    assert precision > 0.5  # by chance 0.2
    assert recall > 0.3
    expected = {
        "planted": {"kind": "wrong-id", "rate": 0.2, "seed": 0, "samples": 48, "noisy": 10},
        "distilled": {
            "samples": 48,
            "changed": int((found.predicted != planted.labels).sum()),
            "distrusted": int((found.own_probability < 0.3).sum()),
            "trusted_by_round": list(found.trusted_by_round),
            "classes_without_trust": len(found.classes_without_trust),
            "precision": precision,
            "recall": recall,
        },
    }
    assert json.loads((path / "noise.json").read_text()) == expected
    metrics = json.loads((path / "metrics.json").read_text())
    assert metrics["labels"] == expected
    assert metrics["seconds"]["teacher"] > 0
    assert found.trusted_by_round[-1] == 48 - expected["distilled"]["distrusted"]


def test_the_loss_is_given_the_soft_labels_of_its_batch(distilled_run, soft_losses):
    result, path = distilled_run(steps=9)
    found = result.labels.distilled
    given = soft_losses[-1].given
    assert len(given) == 9
    drawn = set()
    for labels, confidence in given:
        assert labels.shares.shape == (16, 5)
        rows = [
            int(
                torch.nonzero((found.soft.shares == shares).all(1) & (found.soft.classes == classes).all(1))[
                    0
                ]
            )
            for shares, classes in zip(labels.shares, labels.classes, strict=True)
        ]
        assert confidence.tolist() == found.trusted[rows].float().tolist()
        assert confidence.dtype == torch.float32
        sizes = torch.unique(found.predicted[rows], return_counts=True)[1]
        assert sizes.tolist() == [4, 4, 4, 4]  # balanced by what the teacher takes them for
        drawn |= set(rows)
    assert len(drawn) > 40
    assert len(read_lines(path / "log.jsonl")) == 9


def test_a_teacher_draws_no_numbers_of_the_student(distilled_run, run):
    with_teacher, _ = distilled_run(out="first", steps=1)
    without, _ = run(out="second", loss="soft", noise=0.2, steps=1, **TEACHER)
    assert with_teacher.rows["untrained"] == without.rows["untrained"]


def test_noise_is_planted_for_any_loss(run):
    clean, _ = run(out="clean")
    noisy, path = run(out="noisy", noise=0.25)
    assert sorted(file.name for file in path.iterdir()) == sorted([*FILES, "noise.json"])
    assert int((noisy.train.labels != clean.train.labels).sum()) == 12
    assert torch.equal(noisy.test.labels, clean.test.labels)
    metrics = json.loads((path / "metrics.json").read_text())
    assert metrics["labels"]["planted"]["noisy"] == 12
    assert metrics["labels"]["distilled"] is None
    assert "teacher" not in metrics["seconds"]
    again, _ = run(out="again", noise=0.25)
    assert torch.equal(again.train.labels, noisy.train.labels)
    other, _ = run(out="other", noise=0.25, seed=1)
    assert not torch.equal(other.train.labels, noisy.train.labels)


@pytest.mark.parametrize(("kind", "images"), [("wrong-id", 48), ("no-id", 48), ("several-ids", 60)])
def test_every_kind_of_noise_is_trained_on(distilled_run, kind, images):
    result, _ = distilled_run(noise=0.25, noise_kind=kind)
    assert len(result.train) == len(result.labels.distilled) == images
    assert result.labels.planted.kind == kind
    assert result.outcome.steps_taken == 6


def test_classes_that_noise_made_small_repeat_their_images(run):
    result, _ = run(noise=0.6, samples_per_class=6, batch=24, steps=2)
    sizes = torch.unique(result.train.labels, return_counts=True)[1]
    assert int(sizes.min()) < 6
    assert result.outcome.steps_taken == 2


def test_a_loss_without_soft_labels_is_refused_before_anything_is_written(run, soft_losses, tmp_path):
    able = ", ".join(
        sorted(n for n, e in catalogue.LOSSES.items() if getattr(e.make(2, 2), "takes_soft_labels", False))
    )
    assert "soft" in able
    with pytest.raises(ConfigError, match=f"to be trained with distill, as {able}, got 'multi-similarity'"):
        run(distill=True)
    assert not (tmp_path / "run").exists()


def test_the_epochs_are_shown(distilled_run, recorder):
    distilled_run(teacher_epochs=2, teacher_rounds=2, trust=0.01)
    shown = [text for text in recorder.phases if text.startswith("teacher, ")]
    starts = [f"teacher, {part}, epoch {epoch}/2  48 images"
              for part in ("all images", "round 1 of 2", "round 2 of 2") for epoch in (1, 2)]  # fmt: skip
    assert [text[: len(start)] for text, start in zip(shown, starts, strict=True)] == starts
    assert any("distrusts" in text for text in recorder.phases)


def interrupt_at(recorder, start, number=signal.SIGINT):
    """The signal comes when the display is told of this phase."""

    def on_phase(text):
        recorder.phases.append(text)
        if text.startswith(start):
            os.kill(os.getpid(), number)

    recorder.on_phase = on_phase


@pytest.mark.parametrize(
    "epoch", ["all images, epoch 3/", "round 1 of 1, epoch 2/", "round 1 of 1, epoch 6/"]
)
def test_an_interrupted_teacher_leaves_all_files_and_goes_on_to_the_same_run(distilled_run, recorder, epoch):
    _, whole = distilled_run(out="whole")
    interrupt_at(recorder, f"teacher, {epoch}")
    result, path = distilled_run(out="cut")
    del recorder.on_phase
    assert result.status == "interrupted (SIGINT)"
    assert result.outcome.steps_taken == 0
    assert sorted(file.name for file in path.iterdir()) == sorted([*FILES, "noise.json", "teacher.pt"])
    assert json.loads((path / "metrics.json").read_text())["status"] == "interrupted (SIGINT)"
    assert any("--resume" in note for note in recorder.notes)
    phases = len(recorder.phases)

    again, path = distilled_run(out="cut", resume=True)
    assert again.status == "complete"
    assert any("going on with the teacher" in note for note in recorder.notes)
    trained = [text for text in recorder.phases[phases:] if text.startswith("teacher, ")]
    assert len(trained) < 12
    for name in ("labels.safetensors", "noise.json", "weights.safetensors"):
        assert (path / name).read_bytes() == (whole / name).read_bytes()
    losses = [[line["loss"] for line in read_lines(folder / "log.jsonl")] for folder in (path, whole)]
    assert losses[0] == losses[1]


def test_resuming_needs_the_same_settings(distilled_run, tmp_path):
    _, path = distilled_run()
    before = (path / "metrics.json").read_bytes()
    with pytest.raises(ConfigError, match=r"trust must be 0\.3 as in .*config\.json, got 0\.4"):
        distilled_run(resume=True, trust=0.4)
    with pytest.raises(ConfigError, match=r"distill must be True as in .*config\.json, got False"):
        distilled_run(resume=True, distill=False)
    with pytest.raises(ConfigError, match=r"resume must be off: the run in .* is complete"):
        distilled_run(resume=True)
    with pytest.raises(ConfigError, match="resume must be off with overwrite"):
        distilled_run(resume=True, overwrite=True)
    with pytest.raises(ConfigError, match="already holds one"):
        distilled_run()
    assert (path / "metrics.json").read_bytes() == before
    result, _ = distilled_run(resume=True, out="new")
    assert result.status == "complete"


def test_overwriting_begins_with_a_new_teacher(distilled_run, run, recorder):
    _, path = distilled_run()
    first = (path / "labels.safetensors").read_bytes()
    distilled_run(overwrite=True, seed=1)
    assert (path / "labels.safetensors").read_bytes() != first
    assert not any("going on" in note for note in recorder.notes)
    run(overwrite=True)
    assert sorted(file.name for file in path.iterdir()) == FILES


def test_a_teacher_that_trusts_nothing_ends_the_run_with_the_reason(distilled_run, tmp_path):
    with pytest.raises(
        NoConfidentSamplesError, match=r"threshold must let at least 2 samples through, got 1\.0"
    ):
        distilled_run(trust=1.0, teacher_epochs=1)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["status"] == "no confident sample"
    assert "got 1.0" in metrics["message"]


def test_settings_of_before_are_still_read(tmp_path, settings):
    older = {**settings, "seconds": None}
    (tmp_path / "config.json").write_text(json.dumps(older))
    config = TrainConfig.read(tmp_path / "config.json")
    assert (config.noise, config.distill) == (0.0, False)


def test_fat_is_trained_with_soft_labels(distilled_run):
    """With its classifier: FAT alone has a low value where all embeddings are one, too."""
    result, path = distilled_run(loss="fat-hybrid", steps=60, batch=32, evaluations=1, augment=False)
    losses = [line["loss"] for line in read_lines(path / "log.jsonl")]
    # where all embeddings are one, the hinge is its margin of 0.5 and the classifier's part 0.3 log 8 = 0.62
    assert losses[0] > 0.9
    assert sum(losses[-8:]) / 8 < 0.6
    assert result.status == "complete"
