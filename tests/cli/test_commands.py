"""The commands: what they do, what they refuse and with which words and exit codes."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import webbrowser

import pytest

import fastdml
from fastdml.cli.running import desktop_is_there
from fastdml.training.catalogue import DATASETS, LOSSES
from fastdml.training.checkpoint import read_tensors
from fastdml.training.config import TrainConfig
from fastdml.training.run import read_lines


@pytest.fixture
def opened(monkeypatch):
    """What the browser is asked to open, as if somebody sat before it."""
    addresses = []
    monkeypatch.setattr(webbrowser, "open", addresses.append)
    monkeypatch.setattr("fastdml.cli.running.desktop_is_there", lambda: True)
    return addresses


def test_the_demo_leaves_a_report_and_opens_it(tmp_path, call, opened):
    out = tmp_path / "demo"
    code, output, _ = call("demo", "--steps", "2", "--panel-seconds", "1", "--out", str(out))
    assert code == 0
    recall = json.loads((out / "metrics.json").read_text())["recall"]["trained"]["R@1"]
    assert f"{100 * recall:.1f} %" in output
    assert f"report: {out / 'report.html'}" in output
    assert opened == [(out / "report.html").as_uri()]
    assert "What fusing buys on this machine" in (out / "report.html").read_text()


def test_training_beats_raw_pixels_on_unseen_classes(tmp_path, call):
    out = tmp_path / "run"
    words = "train --steps 80 --batch 64 --network-width 16 --learning-rate 0.01 --evaluations 1"
    code, _, _ = call(*words.split(), "--out", str(out))
    assert code == 0
    metrics = json.loads((out / "metrics.json").read_text())
    recall = {row: values["R@1"] for row, values in metrics["recall"].items()}
    assert recall["trained"] > 1.5 * recall["raw pixels"]
    assert recall["trained"] > 3 * recall["untrained"]
    assert len(read_lines(out / "log.jsonl")) == 80


def test_a_run_keeps_its_settings_and_its_place(tmp_path, call):
    out = tmp_path / "run"
    words = (
        "train --steps 2 --batch 12 --samples-per-class 3 --embedding-dim 9 --network-width 4 --evaluations 1"
    )
    words += " --no-augment --backend reference --device cpu --set loss_options.alpha=3"
    code, _, errors = call(*words.split(), "--out", str(out))
    assert code == 0, errors
    assert TrainConfig.read(out / "config.json") == TrainConfig(
        steps=2, batch=12, samples_per_class=3, embedding_dim=9, network_width=4, evaluations=1,
        augment=False, backend="reference", device="cpu", loss_options={"alpha": 3},
    )  # fmt: skip
    code, _, errors = call(*words.split(), "--out", str(out))
    assert code == 2
    assert "already holds one" in errors
    code, _, _ = call(*words.replace("alpha=3", "alpha=4").split(), "--out", str(out), "--overwrite")
    assert code == 0
    assert TrainConfig.read(out / "config.json").loss_options == {"alpha": 4}


def test_noise_is_planted_found_and_told(tmp_path, call):
    """Two short runs of the real command; the second takes up the finished teacher of the first."""
    out = tmp_path / "run"
    words = "train --loss fat --distill --noise 0.2 --steps 2 --network-width 4 --evaluations 0"
    words += " --teacher-epochs 1 --teacher-rounds 1 --trust 0.005 --backend reference"
    code, output, _ = call(*words.split(), "--out", str(out))
    assert code == 0
    assert "teacher, round 1 of 1, epoch 1/1" in output
    found = json.loads((out / "noise.json").read_text())
    assert found["planted"]["noisy"] == 640
    told = found["distilled"]
    line = (
        f"planted noise found by the teacher: precision {told['precision']:.3f}, recall {told['recall']:.3f}"
    )
    assert line in output
    assert "<h2>Labels</h2>" in (out / "report.html").read_text()
    code, _, errors = call(*words.split(), "--out", str(out), "--resume")
    assert code == 2
    assert "is complete (overwrite starts it anew)" in errors
    (out / "metrics.json").unlink()  # as if the student had not come to its end
    code, output, _ = call(*words.split(), "--out", str(out), "--resume")
    assert code == 0
    assert "going on with the teacher in" in output
    assert "teacher, round" not in output
    assert json.loads((out / "noise.json").read_text()) == found


def test_the_demo_of_a_loss_with_centres_shows_them(tmp_path, call, opened):
    out = tmp_path / "demo"
    words = "demo --loss soft-triple --steps 3 --panel-seconds 0 --no-open"
    code, _, _ = call(*words.split(), "--out", str(out))
    assert code == 0
    config = json.loads((out / "config.json").read_text())
    assert (config["loss"], config["samples_per_class"]) == ("soft-triple", 2)
    assert "Centres of classes" in (out / "report.html").read_text()
    learnt, metadata = read_tensors(out / "loss.safetensors")
    assert metadata["loss"] == "soft-triple"
    assert learnt["fc"].shape == (64, 200 * 10)
    assert opened == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--loss", "tripplet"], "triplet-semihard, got 'tripplet'; near it: triplet, "),
        (["demo", "--loss", "softtriple"], "got 'softtriple'; near it: soft-triple, "),
        (
            ["train", "--data", "mnist"],
            "error: data must be the path of a data set, or one of glyphs, got 'mnist'",
        ),
        (["train", "--batch", "13"], "error: batch must be a multiple of samples_per_class (8)"),
        (["train", "--loss", "soft-triple", "--batch", "3"], "error: batch must be a multiple of"),
        (["train", "--batch", "4096"], "error: batch needs 512 classes, but glyphs has only 200"),
        (["train", "--backend", "fortran"], "error: backend must be one of"),
        (["train", "--distill"], "error: loss must take soft labels to be trained with distill, as fat, "),
        (["train", "--noise-kind", "wrong"], "error: noise_kind must be one of wrong-id, no-id, several-ids"),
        (["demo", "--steps", "0"], "error: steps must be at least 1, got 0"),
        (["demo", "--device", "tpu"], "error: device must be auto, cpu, cuda or cuda:<n>, got 'tpu'"),
    ],
)
def test_what_cannot_work_is_named_and_leaves_nothing(tmp_path, call, words, message):
    out = tmp_path / "run"
    code, _, errors = call(*words, "--out", str(out))
    assert code == 2
    assert message in errors
    assert "Traceback" not in errors
    assert not out.exists()


@pytest.mark.skipif("cuda" in fastdml.available_backends(), reason="the cuda backend can run here")
def test_a_backend_that_cannot_run_here_is_an_error_before_anything_is_written(tmp_path, call):
    code, _, errors = call("train", "--backend", "cuda", "--device", "cpu", "--out", str(tmp_path / "run"))
    assert code == 1
    assert "backend 'cuda' was asked for and cannot run" in errors
    assert not (tmp_path / "run").exists()


def test_help_and_version(call):
    code, output, _ = call("--help")
    assert code == 0
    assert all(name in output for name in ("demo", "train", "doctor"))
    code, output, _ = call("--version")
    assert (code, output.strip()) == (0, f"fastdml {fastdml.__version__}")


@pytest.mark.parametrize(("option", "table"), [("--loss", LOSSES), ("--data", DATASETS)])
def test_the_choices_are_listed_with_a_line_each(call, option, table):
    code, output, _ = call("train", option, "help")
    assert code == 0
    listed = dict(line.split(maxsplit=1) for line in output.splitlines())
    assert listed == {name: entry.about for name, entry in table.items()}


def test_doctor_runs(call):
    code, output, _ = call("doctor")
    assert code == 0
    assert "torch" in output


@pytest.mark.parametrize("missing", ["typer", "rich", "safetensors"])
def test_without_the_extra_the_commands_say_what_to_install(monkeypatch, call, missing):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else found(name))
    code, _, _ = call("demo")
    assert f"fastdml demo needs packages that are not installed ({missing})" in code
    assert "pip install 'fastdml[train]'" in code


def test_a_core_install_can_run_doctor():
    """In a process where the extra's packages cannot be imported."""
    program = (
        "import sys\n"
        "for name in ('typer', 'rich', 'safetensors', 'PIL', 'numpy', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"
        "from fastdml.cli import main\n"
        "main(['doctor'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "torch" in done.stdout


def test_python_m_fastdml():
    done = subprocess.run(
        [sys.executable, "-m", "fastdml", "--version"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0
    assert done.stdout.strip() == f"fastdml {fastdml.__version__}"


@pytest.mark.parametrize(
    ("environment", "platform", "expected"),
    [
        ({}, "linux", False),
        ({"DISPLAY": ":0"}, "linux", True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", True),
        ({"DISPLAY": ":0", "CI": "true"}, "linux", False),
        ({"DISPLAY": ":10", "SSH_CONNECTION": "x"}, "linux", False),
        ({}, "darwin", True),
        ({"CI": "1"}, "darwin", False),
    ],
)
def test_the_report_opens_only_where_somebody_sees_it(environment, platform, expected):
    assert desktop_is_there(environment, platform) is expected
