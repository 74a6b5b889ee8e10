"""What a network starts from, what of it learns, and how it is made again."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from backbone_cases import COLOUR, HERE, WIDTH, network, split_of

from fastdml.errors import InputError
from fastdml.training import ConfigError, TrainConfig
from fastdml.training.backbone_head import BackboneWithHead
from fastdml.training.backbones import make_network, network_description, rebuild
from fastdml.training.checkpoint import CheckpointError, save_tensors, save_weights


def test_weights_are_all_of_the_network_or_its_backbone_alone(tmp_path):
    named = {"network": HERE + "Tower"}
    source = network(COLOUR, seed=1, **named)
    source.pixel_mean.fill_(0.25)
    whole, backbone = tmp_path / "whole.safetensors", tmp_path / "backbone.safetensors"
    save_weights(whole, source)
    save_weights(backbone, source.backbone)

    model = network(COLOUR, seed=2, weights=str(whole), **named)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in source.state_dict().items())

    fresh = network(COLOUR, seed=2, **named)
    model = network(COLOUR, seed=2, weights=str(backbone), **named)
    assert torch.equal(model.backbone.conv.weight, source.backbone.conv.weight)
    assert torch.equal(model.head.weight, fresh.head.weight)
    assert float(model.pixel_mean) == 0.0


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_weights(path, network(COLOUR, network=HERE + "Tower", network_options={"features": 5}))
    with pytest.raises(
        CheckpointError, match=r"other.safetensors does not fit the model: \d+ tensors differ"
    ):
        network(COLOUR, network=HERE + "Tower", weights=str(path))
    save_tensors(path, {"conv.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="does not fit the model"):
        network(COLOUR, network=HERE + "Tower", weights=str(path))
    with pytest.raises(CheckpointError, match=r"none.safetensors must be a readable safetensors file"):
        network(COLOUR, weights=str(tmp_path / "none.safetensors"))


def learn(model, split):
    """One large step on everything that learns."""
    model.train()
    optimiser = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=1.0)
    model(split.batch(torch.arange(6))).square().sum().backward()
    optimiser.step()


@pytest.mark.parametrize("settings", [{"network": HERE + "Tower"}, {"network": "small"}])
@pytest.mark.parametrize("copied", [lambda model: model, copy.deepcopy])
def test_a_frozen_backbone_stays_bit_for_bit_while_the_head_learns(settings, copied):
    model = copied(network(COLOUR, freeze="backbone", **settings))
    before = copy.deepcopy(model.state_dict())
    learn(model, COLOUR)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias"}


def test_a_frozen_backbone_is_in_evaluation_mode_and_stays_so_through_a_pickle():
    model = pickle.loads(pickle.dumps(network(COLOUR, network=HERE + "Tower", freeze="backbone")))
    model.train()
    assert model.training
    assert not any(part.training for part in model.backbone.modules())
    inputs = COLOUR.batch(torch.arange(4))
    assert torch.equal(model(inputs), model(inputs))  # no dropout


def test_frozen_batch_norm_keeps_its_statistics_and_learns_its_scales():
    model = network(COLOUR, network=HERE + "Tower", freeze="batch-norm")
    before = copy.deepcopy(model.state_dict())
    learn(model, COLOUR)
    after = model.state_dict()
    assert torch.equal(after["backbone.norm.running_mean"], before["backbone.norm.running_mean"])
    assert not torch.equal(after["backbone.norm.bias"], before["backbone.norm.bias"])
    assert not torch.equal(after["backbone.conv.weight"], before["backbone.conv.weight"])


def test_there_must_be_a_backbone_to_freeze():
    with pytest.raises(ConfigError, match="freeze must be nothing or batch-norm with network 'head'"):
        network(split_of(torch.randn(8, 5)), network="head", freeze="backbone")


# Made again from what is said of it


@pytest.mark.parametrize(
    ("split", "settings"),
    [
        (COLOUR, {}),
        (split_of(torch.randn(9, 5)), {"network": "head", "network_options": {"hidden": [6]}}),
        (COLOUR, {"network": HERE + "Tower", "network_options": {"mean": [0.2, 0.3, 0.4]}}),
        (COLOUR, {"network": HERE + "Embedder"}),
    ],
)
def test_a_network_is_made_again_from_its_description_and_weights(split, settings):
    config = TrainConfig(embedding_dim=WIDTH, network_width=4, **settings)
    model = make_network(config, split)
    learn(model, split)  # running statistics that are not those of a new network
    again = rebuild(network_description(config, split), trust_code=True)
    again.load_state_dict(model.state_dict())
    inputs = split.batch(torch.arange(4))
    assert torch.equal(again(inputs), model.eval()(inputs))


def test_code_that_a_description_names_runs_only_when_trusted():
    description = network_description(TrainConfig(network=HERE + "Tower", embedding_dim=WIDTH), COLOUR)
    with pytest.raises(InputError, match=r"Tower', and making it runs that code: trust_code .* must be on"):
        rebuild(description)
    assert isinstance(rebuild(description, trust_code=True), BackboneWithHead)
    with pytest.raises(InputError, match="do not say what network they are of: KeyError"):
        rebuild({"network": "small"})
