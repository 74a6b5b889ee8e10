"""How `fastdml train` is told its settings: files, options, words, and the run that goes on."""

from __future__ import annotations

import inspect
import json
import shlex
from dataclasses import fields, replace

import pytest

from fastdml.cli.train import train
from fastdml.training.config import TrainConfig
from fastdml.training.settings_text import OPTIONS, command_of, to_toml

ABOUT_THE_RUN = {
    "context", "config_file", "assignments", "print_config", "resume", "out", "overwrite", "panel_seconds",
    "open_report",
}  # fmt: skip


@pytest.fixture
def handed(monkeypatch):
    """Everything that is handed to run_and_show, in place of a run."""
    found = []
    monkeypatch.setattr("fastdml.cli.train.run_and_show", lambda *given: found.append(given))
    return found


def test_options_lie_between_the_file_and_the_words(tmp_path, call, handed):
    path = tmp_path / "mine.toml"
    path.write_text("steps = 10\nbatch = 64\nseed = 1\n[loss_options]\nalpha = 3\n")
    words = ["--config", str(path), "--steps", "500", "--seed", "2", "--set", "seed=3"]
    code, _, errors = call("train", *words, "--set", "loss_options.beta=40", "--out", str(tmp_path / "run"))
    assert code == 0, errors
    ((config, out, *rest),) = handed
    # 500 is the default too, and yet it was asked for
    assert (config.steps, config.batch, config.seed) == (500, 64, 3)
    assert config.loss_options == {"alpha": 3, "beta": 40}
    assert out == tmp_path / "run"
    assert rest == [False, 0.0, False, False]


@pytest.mark.parametrize(
    ("words", "samples"),
    [("--loss arcface", 2), ("--loss triplet", 8), ("--loss arcface --samples-per-class 4", 4)],
)
def test_samples_of_a_class_are_what_suits_the_loss_unless_asked(call, handed, words, samples):
    code, _, errors = call("train", *words.split())
    assert code == 0, errors
    assert handed[0][0].samples_per_class == samples


def test_a_recipe_is_known_by_its_name_and_its_data_can_be_elsewhere(call, handed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, errors = call("train", "--config", "cub-proxy-anchor", "--data", "/there/CUB_200_2011")
    assert code == 0, errors
    ((config, out, *_),) = handed
    assert (config.loss, config.center_rate, config.freeze) == ("proxy-anchor", 100.0, "batch-norm")
    assert config.data == "/there/CUB_200_2011"
    assert str(out) == "runs/CUB_200_2011-proxy-anchor"


def test_the_settings_are_printed_and_nothing_is_trained(tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output, _ = call("train", "--loss", "arcface", "--chunk", "32", "--print-config")
    assert code == 0
    assert output == to_toml(TrainConfig(loss="arcface", samples_per_class=2, chunk=32))
    assert list(tmp_path.iterdir()) == []


def test_the_command_repeats_the_run(call):
    config = TrainConfig(
        data='my "own" pictures',
        image_size="256x128",
        loss="contrastive-mined",
        loss_options={"squared": True, "miner": {"pos_margin": 0.3}},
        batch=64,
        samples_per_class=2,
        repeat_images=True,
        chunk=16,
        network="timm:resnet50",
        network_options={"odd key": "none", "sizes": [1, 2.5], "no value": None, "name": "3"},
        learning_rate=1e-05,
        schedule="constant",
        center_rate=100.0,
        augment=False,
        distill=True,
    )
    plain = replace(config, network_options={"a": None, "b": "none", "c": {"d": "x y", "e": False}})
    for one in (TrainConfig(), plain):
        program, *words = shlex.split(command_of(one))
        assert program == "fastdml"
        code, output, errors = call(*words, "--print-config")
        assert code == 0, errors
        assert output == to_toml(one)


def test_every_option_of_train_is_a_setting_or_about_the_run():
    parameters = inspect.signature(train).parameters
    assert parameters.keys() - ABOUT_THE_RUN == set(OPTIONS)
    defaults = {one.name: one.default for one in fields(TrainConfig)}
    assert defaults.keys() >= set(OPTIONS)
    differing = {name for name in OPTIONS if parameters[name].default != defaults[name]}
    assert differing == {"samples_per_class"}


def test_every_option_reaches_its_setting(call, handed, tmp_path):
    values = {
        "data": "d", "layout": "csv", "image_size": "64", "fit": "stretch", "on_unreadable": "skip",
        "workers": 3, "loss": "contrastive", "memory": 64, "steps": 3, "seconds": 1.5, "batch": 32,
        "chunk": 16, "samples_per_class": 4, "repeat_images": True, "network": "head", "weights": "w",
        "freeze": "backbone", "embedding_dim": 5, "network_width": 6, "learning_rate": 0.1,
        "weight_decay": 0.2, "warmup_steps": 7,
        "precision": "bf16", "evaluations": 8, "augment": False, "seed": 9, "backend": "cpu", "device": "cpu",
        "checkpoint_every": 11, "tensorboard": True, "noise": 0.3, "noise_kind": "no-id", "distill": True,
        "teacher_epochs": 12, "teacher_rounds": 13, "trust": 0.4, "temperature": 2.5,
    }  # fmt: skip
    assert values.keys() == set(OPTIONS)
    words = []
    for name, value in values.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", str(value)]
    code, _, errors = call("train", *words, "--out", str(tmp_path / "run"))
    assert code == 0, errors
    assert handed[0][0] == TrainConfig(**values)


def test_a_run_goes_on_with_its_own_settings(tmp_path, call, handed):
    config = TrainConfig(loss="arcface", batch=16, samples_per_class=4, steps=7, loss_options={"scale": 8})
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.json").write_text(json.dumps(config.to_dict()))
    code, _, errors = call("train", "--resume", "--out", str(out))
    assert code == 0, errors
    code, _, _ = call("train", "--resume", "--steps", "8", "--out", str(out))
    assert code == 0
    assert [given[0] for given in handed] == [config, replace(config, steps=8)]
    assert all(given[-1] is True for given in handed)
    code, _, errors = call("train", "--resume")
    assert code == 2
    assert "error: resume needs the directory of the run in --out" in errors
    (out / "config.json").write_text("{")
    code, _, errors = call("train", "--resume", "--out", str(out))
    assert code == 2
    assert "config.json must be the config.json of a run" in errors
    assert len(handed) == 2


def test_several_processes_must_be_told_one_directory(call, handed, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, errors = call("train")
    assert code == 2
    assert "error: out must name the directory of the run where several processes train it" in errors
    assert not handed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "nothing.toml"], "error: config must be a TOML file or one of the recipes cars-"),
        (["--set", "stpes=3"], "error: set has settings that do not exist: 'stpes' (near it: steps)"),
        (["--set", "loss_options.margn=3", "--loss", "triplet"], "got 'margn' (near it: margin)"),
        (["--set", "optimiser=adamm"], "error: optimiser must be one of adamw, adam, sgd, got 'adamm'"),
        (["--chunk", "256"], "error: chunk must be at most batch (128), got 256"),
    ],
)
def test_settings_that_cannot_work_are_named_and_nothing_is_run(call, handed, words, message):
    code, _, errors = call("train", *words)
    assert code == 2
    assert message in errors
    assert not handed
