"""The batch study compares the forms of the loss and nothing else, and says where one ends."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastdml.backends import reference
from fastdml.data import Split
from fastdml.resident_memory import can_measure
from fastdml.training import catalogue
from fastdml.training.catalogue import DatasetEntry
from fastdml.training.run import read_lines
from fastdml.training.views import Views
from tools import batch_study
from tools.batch_study import Study, loss_bytes, measure, per_class
from tools.batch_study_figure import LOOKS, draw

STUDY = Study("tiny", budget=512, width=4, rate=1e-3, device="cpu", chunk=128, start_steps=1)


def tiny_split(name: str) -> Split:
    """16 classes of 16 images: noisy copies of a coarse pattern each."""
    generator = torch.Generator().manual_seed(len(name))
    patterns = (torch.rand(16, 1, 4, 4, generator=generator) > 0.6).float()
    images = patterns.repeat_interleave(16, 0).repeat_interleave(4, 2).repeat_interleave(4, 3)
    images = (images + 0.8 * torch.rand(images.shape, generator=generator)).clamp(0, 1)
    return Split(
        name=f"tiny/{name}",
        images=(255 * images).byte(),
        labels=torch.arange(16).repeat_interleave(16),
        class_names=tuple(map(str, range(16))),
        is_query=torch.ones(256, dtype=torch.bool),
        is_gallery=torch.ones(256, dtype=torch.bool),
        domains=torch.zeros(256, dtype=torch.int64),
        domain_names=("plain",),
    )


@pytest.fixture(autouse=True)
def tiny_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalogue.DATASETS, "tiny", DatasetEntry(tiny_split, "to test with"))


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """In which the matrix of all pairs of 64 does not fit."""
    whole = reference.pair_statistics

    def with_little_memory(terms, closeness, selection, row, embeddings, *others):
        if len(embeddings) >= 64:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore")
        return whole(terms, closeness, selection, row, embeddings, *others)

    monkeypatch.setattr(reference, "pair_statistics", with_little_memory)


def test_both_forms_learn_the_same_from_the_same(tmp_path: Path) -> None:
    arguments = f"--data tiny --device cpu --forms fastdml,dense --batches 512,64 --budget 512 --chunk 128 \
        --start-steps 1 --width 4 --name found --out {tmp_path} --runs {tmp_path / 'runs'}"
    batch_study.main(arguments.split())
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["contest"] == "batch_study"
    rows = {(row["form"], row["batch"]): row for row in found["runs"]}
    assert list(rows) == [("fastdml", 64), ("dense", 64), ("fastdml", 512), ("dense", 512)]
    assert [row["steps"] for row in rows.values()] == [8, 8, 1, 1]
    for batch in (64, 512):
        logs = [read_lines(tmp_path / "runs" / f"{batch}-0{end}" / "log.jsonl") for end in ("", "-dense")]
        losses = [torch.tensor([record["loss"] for record in log]) for log in logs]
        torch.testing.assert_close(losses[0][:4], losses[1][:4], rtol=1e-4, atol=0)
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-2, atol=0)
        recalls = [rows[form, batch]["recall"]["R@1"] for form in ("fastdml", "dense")]
        assert recalls[0] == pytest.approx(recalls[1], abs=0.05)
    backends = [
        json.loads((tmp_path / "runs" / name / "metrics.json").read_text())["environment"]["backend"]
        for name in ("512-0", "512-0-dense")
    ]
    assert backends[0] != backends[1] == "reference"
    assert (tmp_path / "found.svg").read_text() != (tmp_path / "found-dark.svg").read_text()


@pytest.mark.usefixtures("small_memory")
def test_where_a_form_does_not_fit_is_a_row_and_no_larger_batch_is_tried(tmp_path: Path, monkeypatch) -> None:
    kept: list[int] = []
    forms = ("fastdml", "dense")
    study = replace(STUDY, budget=128)
    found = measure(
        study, tmp_path, (32, 64, 128), forms=forms, keep=lambda content: kept.append(len(content["runs"]))
    )
    told = {(row["form"], row["batch"]): row["status"] for row in found["runs"]}
    assert told == {
        ("fastdml", 32): "complete",
        ("dense", 32): "complete",
        ("fastdml", 64): "complete",
        ("dense", 64): "does not fit",
        ("fastdml", 128): "complete",
    }
    assert kept == [1, 2, 3, 4, 5]
    (row,) = (row for row in found["runs"] if row["status"] == "does not fit")
    assert row["message"] == "CUDA out of memory. Tried to allocate"

    monkeypatch.setattr(batch_study, "run_experiment", lambda *_, **__: pytest.fail("made again"))
    assert measure(study, tmp_path, (32, 64, 128), forms=forms)["runs"] == found["runs"]
    with pytest.raises(SystemExit, match="other settings"):
        measure(replace(study, rate=2e-3), tmp_path, (32,))


def test_another_error_is_none_of_memory(tmp_path: Path, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(reference, "pair_statistics", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        measure(STUDY, tmp_path, (64,), forms=("dense",))
    assert not (tmp_path / "64-0-dense" / "row.json").exists()


def test_no_run_is_begun_after_the_time(tmp_path: Path, capsys) -> None:
    assert measure(STUDY, tmp_path, (256,), seconds=0)["runs"] == []
    assert "fastdml, 256: left out, 0 s are over" in capsys.readouterr().out
    assert len(measure(STUDY, tmp_path, (256,))["runs"]) == 1
    assert len(measure(STUDY, tmp_path, (128, 256), seconds=0)["runs"]) == 1  # that is there already


def test_repetitions_of_an_image_are_perturbed_anew(tmp_path: Path, monkeypatch, capsys) -> None:
    shown: list[tuple[torch.Tensor, torch.Tensor]] = []
    whole = Views.of_training

    def remembered(self, images, seed, device):
        inputs = whole(self, images, seed, device)
        shown.append((images, inputs))
        return inputs

    monkeypatch.setattr(Views, "of_training", remembered)
    (row,) = measure(STUDY, tmp_path, (512, 1024))["runs"]
    assert (row["batch"], row["samples_per_class"], row["steps"]) == (512, 32, 1)
    assert "1024: left out, tiny has 256 images" in capsys.readouterr().out
    first, second = shown[-8:-4], shown[-4:]
    stored = torch.cat([images for images, _ in first])
    inputs = torch.cat([inputs for _, inputs in first])
    assert stored.unique(dim=0, return_counts=True)[1].tolist() == [2] * 256
    assert len(inputs.unique(dim=0)) == 512
    for (_, once), (_, again) in zip(first, second, strict=True):
        assert torch.equal(once, again)


def test_as_many_of_a_class_as_fill_a_batch() -> None:
    wanted = {256: 16, 16384: 16, 32768: 32, 65536: 64}
    assert {batch: per_class(batch, classes=1400) for batch in wanted} == wanted
    cuda = batch_study.SCALES["cuda"]
    assert (cuda.batches[0], cuda.batches[-1]) == (256, 65536)
    assert cuda.budget // 65536 >= 20


@pytest.mark.skipif(not can_measure(), reason="needs a resettable high-water mark (Linux)")
def test_the_memory_of_the_loss_is_that_of_its_form() -> None:
    matrix = 4 * 2048**2
    config = STUDY.config(2048, 1, 16, 0)
    for form in ("reference", None):  # the first call of either loads what it needs
        loss_bytes(replace(config, backend=form))
    dense, fused = loss_bytes(replace(config, backend="reference")), loss_bytes(config)
    assert dense is not None
    assert fused is not None
    assert dense > 3 * matrix
    assert fused < matrix


def row(form: str, batch: int, recall: float, **others: object) -> dict[str, object]:
    return {
        "form": form,
        "batch": batch,
        "start_recall_at_1": 0.5,
        "recall": {"R@1": recall},
        "step_seconds": {"loss": 1e-6 * batch},
        "share_of_loss": 0.1,
        "step_bytes": 1e5 * batch,
        **others,
    }


def test_the_figure_has_a_line_for_each_form_and_a_cross_where_one_ends() -> None:
    rows = [row("fastdml", 256, 0.7), row("dense", 256, 0.71), row("fastdml", 512, 0.8)]
    end = {"form": "dense", "batch": 512, "start_recall_at_1": 0.5, "status": "does not fit"}
    figure = draw(LOOKS[""], {"runs": [*rows, end]})
    recall, memory, time = figure.axes
    lines = [line.get_xydata().tolist() for line in recall.lines[:2]]
    assert lines == [[[256, 70], [512, 80]], [[256, 71]]]
    assert [text.get_text() for text in recall.get_legend().get_texts()] == ["fastdml", "dense"]
    assert memory.lines[0].get_ydata().tolist() == pytest.approx([25.6, 51.2])
    assert time.lines[1].get_ydata().tolist() == pytest.approx([0.256])
    for axes in (memory, time):
        assert [text.get_text() for text in axes.texts] == ["\N{MULTIPLICATION SIGN}", "does not fit"]
        assert all(text.xy[0] == 512 for text in axes.texts)


def test_the_figure_of_one_form_is_about_its_share() -> None:
    rows = [{name: value for name, value in row("", 256, 0.7).items() if name != "form"}]
    panels = draw(LOOKS["-dark"], {"runs": rows}).axes
    assert panels[2].get_title(loc="left") == "The loss, % of a step's time"
    assert panels[2].lines[0].get_ydata().tolist() == pytest.approx([10])
    assert panels[0].get_legend() is None
