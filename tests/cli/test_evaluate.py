"""`fastdml evaluate`, `embed` and `export` on a run of photographs with cameras, one of them damaged."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fastdml.data.layouts import load_dataset
from fastdml.retrieval import evaluate
from fastdml.training import TrainConfig, run_experiment
from fastdml.training.evaluation import embed
from fastdml.training.silent_display import SilentDisplay
from fastdml.training.trained import load_trained

CLASSES, VIEWS, SIDE = 12, 6, 32


def write_photographs(folder):
    """Blotches of colour, their views noisy and taken by three cameras; the last class's first is damaged."""
    draw = np.random.default_rng(0)
    rows = []
    for label in range(CLASSES):
        blotches = draw.integers(0, 256, (4, 4, 3)).repeat(8, 0).repeat(8, 1)
        for view in range(VIEWS):
            pixels = (blotches + draw.integers(-60, 61, blotches.shape)).clip(0, 255).astype(np.uint8)
            name = f"{label} {view}.png"
            Image.fromarray(pixels).save(folder / name)
            split = "train" if label < CLASSES // 2 else "test"
            rows.append((name, label, split, view % 3, int(view < 2), int(view >= 2)))
    (folder / f"{CLASSES - 1} 0.png").write_bytes(b"no image")
    with (folder / "images.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split", "camera", "query", "gallery"])
        writer.writerows(rows)
    return folder / "images.csv"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """The directory of a run of three steps, in evaluation as in training without perturbed images."""
    out = tmp_path_factory.mktemp("runs") / "run"
    config = TrainConfig(
        data=str(data),
        image_size=str(SIDE),
        on_unreadable="skip",
        workers=0,
        augment=False,
        steps=3,
        batch=16,
        samples_per_class=4,
        embedding_dim=8,
        network_width=4,
        evaluations=0,
        warmup_steps=1,
        backend="reference",
        device="cpu",
    )
    run_experiment(config, out, SilentDisplay(), panel_seconds=0)
    return out


def embeddings_of(run, split):
    return embed(load_trained(run).model, split, torch.device("cpu"))


def test_the_numbers_are_those_of_the_run_and_respect_cameras(run, data, call, tmp_path):
    code, output, errors = call("evaluate", str(run), "--json", str(tmp_path / "numbers.json"))
    assert code == 0, errors
    assert errors.count(f"{CLASSES - 1} 0.png cannot be read and is left out") == 1
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    trained = json.loads((run / "metrics.json").read_text())["recall"]["trained"]
    assert {f"R@{k}": numbers[f"recall_at_{k}"] for k in (1, 2, 4, 8)} == pytest.approx(trained)

    test = load_dataset(data, size=(SIDE, SIDE), on_error="skip").test
    readable = torch.ones(len(test), dtype=torch.bool)
    readable[-VIEWS] = False
    sets = {"query": test.is_query & readable, "gallery": test.is_gallery & readable}
    found = embeddings_of(run, test)
    expected = evaluate(found, test.labels, (1, 2, 4, 8), **sets, cameras=test.cameras)
    for name, value in expected.to_dict().items():
        assert numbers[name] == pytest.approx(value, abs=1e-6), name
    assert str(expected) in output
    careless = evaluate(found, test.labels, (1, 2, 4, 8), **sets)
    assert careless.mean_average_precision != pytest.approx(expected.mean_average_precision)


def test_other_data_other_ks_and_a_damaged_image_that_stops(run, data, call, tmp_path):
    code, output, _ = call("evaluate", str(run), "--data", str(data), "--ks", "3", "--device", "cpu")
    assert code == 0
    assert "Recall@3" in output
    assert "Recall@1 " not in output
    code, _, errors = call("evaluate", str(run), "--on-unreadable", "stop")
    assert code == 2
    assert f"{CLASSES - 1} 0.png cannot be read as an image" in errors
    code, _, errors = call("evaluate", str(run), "--ks", "1,two")
    assert code == 2
    assert "ks must be whole numbers from 1 on with commas between them, got '1,two'" in errors
    code, _, errors = call("evaluate", str(run), "--data", "glyphs")
    assert code == 2
    assert (
        "data must be of the shape that the network takes, [3, 32, 32], got [1, 32, 32] from glyphs" in errors
    )
    code, _, errors = call("evaluate", str(tmp_path))
    assert code == 2
    assert "must be the directory of a run or a checkpoint in it" in errors


@pytest.mark.parametrize("ending", [".safetensors", ".npz"])
def test_embeddings_are_a_data_set_that_can_be_trained_on(run, data, call, tmp_path, ending):
    out = tmp_path / f"features{ending}"
    code, output, errors = call("embed", str(run), "--out", str(out))
    assert code == 0, errors
    rows = CLASSES * VIEWS - 1
    assert f"{rows} embeddings of width 8" in output

    source = load_dataset(data, size=(SIDE, SIDE), on_error="skip")
    again = load_dataset(out)
    assert again.notes == ()
    test, kept = source.test, torch.arange(len(source.test)) != len(source.test) - VIEWS
    assert torch.equal(again.test.labels, test.labels[kept])
    assert torch.equal(again.test.cameras, test.cameras[kept])
    assert torch.equal(again.test.is_query, test.is_query[kept])
    assert torch.equal(again.test.is_gallery, test.is_gallery[kept])
    torch.testing.assert_close(again.test.images, embeddings_of(run, test)[kept])
    torch.testing.assert_close(again.train.images, embeddings_of(run, source.train))
    paths = (tmp_path / f"features{ending}.paths.txt").read_text().splitlines()
    assert len(paths) == rows
    assert paths[-1] == str(data.parent / f"{CLASSES - 1} {VIEWS - 1}.png")


def test_one_split_alone_and_settings_that_cannot_work(run, call, tmp_path):
    out = tmp_path / "test.safetensors"
    code, _, errors = call("embed", str(run), "--out", str(out), "--split", "test")
    assert code == 0, errors
    columns = load_file(out)
    assert columns["split"].tolist() == [1] * (CLASSES // 2 * VIEWS - 1)
    code, _, errors = call("embed", str(run), "--out", str(out), "--split", "all")
    assert (code, "split must be one of train, test, both, got 'all'" in errors) == (2, True)
    code, _, errors = call("embed", str(run), "--out", str(tmp_path / "features.csv"))
    assert (code, "out must end in .safetensors or .npz, got 'features.csv'" in errors) == (2, True)


def test_an_exported_network_runs_without_fastdml_for_any_number_of_images(run, call, tmp_path):
    out = tmp_path / "network.pt2"
    code, output, errors = call("export", str(run), "--out", str(out), "--normalise")
    assert code == 0, errors
    assert "from images in [0, 1], float32 [N, 3, 32, 32], to embeddings float32 [N, 8] of length 1" in output
    assert "run again by torch.export on random inputs, greatest difference" in output
    assert [path.name for path in tmp_path.iterdir()] == ["network.pt2"]
    program = torch.export.load(io.BytesIO(out.read_bytes())).module()
    model = load_trained(run).model
    for count in (1, 5):
        images = torch.rand(count, 3, SIDE, SIDE)
        expected = torch.nn.functional.normalize(model(images))
        torch.testing.assert_close(program(images), expected, rtol=1e-4, atol=1e-5)


def test_onnx_files_compute_the_same(run, call, tmp_path):
    pytest.importorskip("onnxscript")
    reference = pytest.importorskip("onnx.reference")
    out = tmp_path / "network.onnx"
    code, output, errors = call("export", str(run), "--out", str(out))
    assert code == 0, errors
    assert "run again by onnx" in output
    images = torch.rand(5, 3, SIDE, SIDE)
    found = reference.ReferenceEvaluator(str(out)).run(["embeddings"], {"images": images.numpy()})[0]
    torch.testing.assert_close(torch.tensor(found), load_trained(run).model(images), rtol=1e-4, atol=1e-5)


def test_exports_that_cannot_work_leave_the_file_that_is_there(run, call, tmp_path, monkeypatch):
    from fastdml.training import exporting

    out = tmp_path / "network.pt2"
    out.write_bytes(b"before")
    monkeypatch.setitem(
        exporting._FORMATS,
        ".pt2",
        (lambda model, example: b"x", lambda path, inputs: (torch.ones(3, 8), "a runner")),
    )
    code, _, errors = call("export", str(run), "--out", str(out))
    assert code == 1
    assert f"{out} was not written: run by a runner, embeddings differ by" in errors
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("network.pt2", b"before")]
    code, _, errors = call("export", str(run), "--out", str(tmp_path / "network.pth"))
    assert code == 2
    assert "out must end in .pt2 or .onnx, got 'network.pth'" in errors
