"""Photographs in a folder, from `fastdml train` to what is trained on their embeddings."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from data import trees
from PIL import Image
from safetensors.torch import load_file

from fastdml.training.run import read_lines
from fastdml.training.silent_display import SilentDisplay

STEPS = 9
CLASSES, SHOTS = (1, 2, 3, 4, 101, 102, 103, 104), 5
SMALL = (
    "--image-size 32 --network-width 4 --embedding-dim 8 --batch 8 --samples-per-class 2 --evaluations 3 "
    f"--warmup-steps 2 --steps {STEPS} --device cpu --workers 2"
).split()


def paint(root: Path) -> None:
    """Noise over the colour of each class, so that a crop of an image differs from another."""
    draw = np.random.default_rng(0)
    for path in sorted(root.rglob("*.jpg")):
        colour = np.array(trees.colour(int(path.parent.name[:3])))
        pixels = colour + draw.normal(0, 60, (40, 52, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=95)


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "CUB_200_2011"
    trees.write_cub(root, CLASSES, SHOTS)
    paint(root)
    return root


@pytest.fixture
def train(call, birds):
    def run(out, *words):
        code, output, errors = call("train", "--data", str(birds), *SMALL, "--out", str(out), *words)
        assert "Traceback" not in errors
        return code, output, errors

    return run


class Interrupted(SilentDisplay):
    """Ctrl-C after the fifth step, between evaluations."""

    def on_step(self, record, steps):
        if record.step == 5:
            os.kill(os.getpid(), signal.SIGINT)


def without_clock(path: Path, keys: tuple[str, ...]) -> list[list[float]]:
    return [[line[key] for key in keys] for line in read_lines(path)]


def test_a_run_on_files_goes_on_as_if_never_interrupted_and_is_judged_alike(
    train, call, tmp_path, monkeypatch
):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    code, _, errors = train(whole)
    assert code == 0, errors
    with monkeypatch.context() as patched:
        patched.setattr("fastdml.cli.running.make_display", lambda console: Interrupted())
        code, output, _ = train(cut)
    assert (code, "interrupted (SIGINT); 5 steps" in output) == (130, True)
    assert multiprocessing.active_children() == []
    code, output, errors = call("train", "--resume", "--out", str(cut))
    assert code == 0, errors
    assert "Going on after step 5" in output

    columns = ("step", "loss", "gradient_norm", "images")
    assert without_clock(cut / "log.jsonl", columns) == without_clock(whole / "log.jsonl", columns)
    assert len(read_lines(whole / "log.jsonl")) == STEPS
    assert read_lines(cut / "evaluations.jsonl") == read_lines(whole / "evaluations.jsonl")
    first, second = (load_file(run / "weights.safetensors") for run in (whole, cut))
    assert all(bool((first[name] == second[name]).all()) for name in first)
    assert all(line["images_per_second"] > 0 < line["data_seconds"] for line in read_lines(cut / "log.jsonl"))

    code, _, errors = call("evaluate", str(cut), "--json", str(tmp_path / "n.json"), "--workers", "0")
    assert code == 0, errors
    numbers = json.loads((tmp_path / "n.json").read_text())
    metrics = json.loads((whole / "metrics.json").read_text())
    for k in (1, 2, 4, 8):
        assert numbers[f"recall_at_{k}"] == metrics["recall"]["trained"][f"R@{k}"]
    assert numbers["mean_average_precision"] == pytest.approx(metrics["mean_average_precision"], abs=1e-6)
    assert metrics["recall"].keys() == {"untrained", "trained"}


def test_unreadable_files_stop_a_run_or_are_left_out_and_the_rest_becomes_features(call, tmp_path):
    root = tmp_path / "birds"
    trees.write_cub(root, CLASSES, SHOTS)
    paint(root)
    images = sorted(root.rglob("*.jpg"))
    images[0].write_bytes(b"")
    images[-1].write_bytes(b"<html>")
    words = ["train", "--data", str(root), *SMALL, "--out", str(tmp_path / "run")]
    code, _, errors = call(*words)
    assert code == 2
    assert "--on-unreadable skip) leaves such images out" in errors
    assert not (tmp_path / "run").exists()

    code, output, errors = call(*words, "--on-unreadable", "skip")
    assert code == 0, errors
    for path in (images[0], images[-1]):
        assert output.count(f"{path} cannot be read and is left out") == 1  # of four evaluations
    log = read_lines(tmp_path / "run/log.jsonl")
    assert {line["images"] for line in log} == {7, 8}  # class 1 is in every batch

    features = tmp_path / "birds.safetensors"
    code, output, errors = call("embed", str(tmp_path / "run"), "--out", str(features))
    assert code == 0, errors
    assert f"{len(images) - 2} embeddings of width 8" in output
    head = [
        "--network",
        "head",
        "--steps",
        "3",
        "--batch",
        "8",
        "--samples-per-class",
        "2",
        "--device",
        "cpu",
    ]
    code, output, errors = call("train", "--data", str(features), *head, "--out", str(tmp_path / "head"))
    assert code == 0, errors
    judged = json.loads((tmp_path / "run/metrics.json").read_text())["recall"]["trained"]
    raw = json.loads((tmp_path / "head/metrics.json").read_text())["recall"]["raw features"]
    assert raw == pytest.approx(judged)
    assert "raw features" in output


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--set", "categories_per_batch=3"), "categories_per_batch must divide the 4 classes of a batch"),
        (("--set", "categories_per_batch=2"), "categories_per_batch must be 0 for cub/train"),
        (("--batch", "64"), "batch needs 32 classes"),
        (("--samples-per-class", "4", "--batch", "9"), "batch must be a multiple of samples_per_class (4)"),
        (("--layout", "sop"), "is no data set that is known"),
        (("--data", "nowhere"), "data must be the path of a data set, or one of glyphs"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(train, tmp_path, words, error):
    code, _, errors = train(tmp_path / "run", *words)
    assert (code, error in errors) == (2, True), errors
    assert not (tmp_path / "run").exists()


def test_a_test_split_to_search_in_is_needed(call, tmp_path):
    trees.write_folders(tmp_path / "train", ("ant", "bee"), count=4)
    names = sorted((tmp_path / "train").rglob("*.[jJ]*"))
    lines = [f"{path},{path.parent.name},train" for path in names]
    trees.write_lines(tmp_path / "all.csv", "path,label,split", *lines)
    data = ["--data", str(tmp_path / "all.csv")]
    code, output, _ = call("data", "check", str(tmp_path / "all.csv"))
    assert (code, "note: test has no images" in output) == (1, True)
    code, _, errors = call(
        "train", *data, "--batch", "8", "--samples-per-class", "4", "--out", str(tmp_path / "run")
    )
    assert code == 2
    assert "the test split of all must have queries, got none of 0 images" in errors
    assert not (tmp_path / "run").exists()


def test_nothing_to_go_on_with_is_no_new_run(call, tmp_path):
    code, _, errors = call("train", "--resume", "--out", str(tmp_path / "typo"))
    assert code == 2
    assert "out must hold the run to go on with" in errors
    assert not (tmp_path / "typo").exists()
