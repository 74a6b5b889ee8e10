"""Trained networks from disk: found where a run leaves them, refused where something is wrong."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from fastdml.data import Split
from fastdml.training import TrainConfig
from fastdml.training.backbones import make_network, network_description
from fastdml.training.checkpoint import CheckpointError, read_tensors, save_tensors, save_weights
from fastdml.training.config import ConfigError
from fastdml.training.run_checkpoints import Parts, RunCheckpoints
from fastdml.training.trained import load_trained


class Flat(torch.nn.Flatten):
    """A network by import path."""


def a_split():
    everyone = torch.ones(8, dtype=torch.bool)
    images = torch.randint(0, 256, (8, 3, 16, 32), dtype=torch.uint8)
    return Split("made/train", images, torch.arange(8) % 2, ("a", "b"), everyone, everyone)


def make_run(path, **settings):
    """The files of a run without the run: final weights, and checkpoints after 10 and 20 steps."""
    path.mkdir()
    config = TrainConfig(embedding_dim=6, network_width=4, **settings)
    split = a_split()
    models = {}
    for step in (10, 20, 30):
        torch.manual_seed(step)
        models[step] = make_network(config, split)
        models[step](split.batch(torch.arange(8)))  # running statistics that are not those of a new network
        models[step].eval()
    description = network_description(config, split)
    checkpoints = RunCheckpoints(path, writes=True, note=lambda text: None)
    for step in (10, 20):
        loss = torch.nn.Linear(1, 1)
        optimiser = torch.optim.SGD(loss.parameters())
        parts = Parts(models[step], loss, optimiser, torch.amp.GradScaler("cpu", enabled=False), description)
        checkpoints.save(step, parts, {})
    save_weights(path / "weights.safetensors", models[30], {**description, "step": "30"})
    (path / "config.json").write_text(json.dumps(config.to_dict()))
    return models


@pytest.fixture
def run(tmp_path):
    """(directory of a run, its networks by step)."""
    return tmp_path / "run", make_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("place", "step"),
    [
        ("", 30),
        ("weights.safetensors", 30),
        ("checkpoints/step-00000010", 10),
        ("checkpoints/step-00000020/weights.safetensors", 20),
    ],
)
def test_a_network_is_found_without_its_data(run, place, step):
    path, models = run
    trained = load_trained(path / place)
    assert (trained.step, trained.shape) == (step, (3, 16, 32))
    assert not trained.model.training
    images = torch.rand(3, 3, 16, 32)
    assert torch.equal(trained.model(images), models[step](images))


def test_of_a_run_without_final_weights_it_is_the_newest_whole_checkpoint(run):
    path, models = run
    (path / "weights.safetensors").unlink()
    images = torch.rand(3, 3, 16, 32)
    assert torch.equal(load_trained(path).model(images), models[20](images))
    newest = path / "checkpoints" / "step-00000020" / "weights.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="step-00000020.* is damaged.*passed over"):
        assert torch.equal(load_trained(path).model(images), models[10](images))
    shutil.rmtree(path / "checkpoints")
    with pytest.raises(CheckpointError, match=r"must hold weights.safetensors, but there is none"):
        load_trained(path)


def test_damaged_and_foreign_files_are_named(run, tmp_path):
    path, _ = run
    weights = path / "weights.safetensors"
    whole = weights.read_bytes()
    with pytest.raises(CheckpointError, match=r"nowhere must be the directory of a run .* nothing is there"):
        load_trained(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"there is no .*config.json"):
        load_trained(tmp_path)
    weights.write_bytes(whole[:-10])
    with pytest.raises(CheckpointError, match=r"run/weights.safetensors must be a readable safetensors file"):
        load_trained(path)
    save_tensors(weights, {"any": torch.zeros(2)})
    with pytest.raises(CheckpointError, match=r"weights.safetensors: the weights do not say what network"):
        load_trained(path)
    weights.write_bytes(whole)
    tensors, metadata = read_tensors(weights)
    save_tensors(weights, {**tensors, "head.bias": torch.zeros(7)}, metadata)
    with pytest.raises(
        CheckpointError, match=r"weights.safetensors does not fit the model: 1 tensors differ"
    ):
        load_trained(path)
    weights.write_bytes(whole)
    (path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config.json must be the config.json of a run"):
        load_trained(path)


def test_weights_of_another_configuration_are_refused(run):
    path, _ = run
    settings = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**settings, "embedding_dim": 9}))
    with pytest.raises(
        CheckpointError, match=r"must be of the run of .*config.json: .*\('small', 6\), there"
    ):
        load_trained(path)


def test_code_that_a_run_names_is_not_run_unasked(tmp_path):
    models = make_run(tmp_path / "run", network=f"{__name__}:Flat")
    with pytest.raises(CheckpointError, match=r"making it runs that code: trust_code"):
        load_trained(tmp_path / "run")
    images = torch.rand(3, 3, 16, 32)
    trained = load_trained(tmp_path / "run", trust_code=True)
    assert torch.equal(trained.model(images), models[30](images))
