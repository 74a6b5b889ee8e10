"""The network of a run by its name: what it computes, and what is said where it cannot be made."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from backbone_cases import COLOUR, HERE, WIDTH, Embedder, Tower, images_of, network, split_of
from torch import nn

from fastdml.errors import InputError
from fastdml.training import ConfigError, EmbeddingNetwork, TrainConfig
from fastdml.training.backbones import head_parameters, network_description, rebuild

# The built-in networks


def test_small_takes_colours_and_oblong_sizes_and_the_statistics_of_the_images():
    model = network(COLOUR)
    pixels = COLOUR.images.double() / 255
    assert float(model.pixel_mean) == pytest.approx(float(pixels.mean()), rel=1e-6)
    assert float(model.pixel_std) == pytest.approx(float(pixels.std(correction=0)), rel=1e-6)
    assert model.image_shape == (3, 32, 48)
    inputs = COLOUR.batch(torch.arange(4)).requires_grad_()
    model(inputs).square().sum().backward()
    assert (inputs.grad.abs().sum((0, 2, 3)) > 0).all()  # every channel counts


def test_small_on_grey_images_is_the_network_made_by_hand():
    grey = split_of(images_of(6, 1, 32, 32))
    torch.manual_seed(3)
    by_hand = EmbeddingNetwork(WIDTH, 4)
    by_hand.set_pixel_statistics(grey.images)
    made = network(grey, seed=3)
    assert list(made.state_dict()) == list(by_hand.state_dict())
    inputs = grey.batch(torch.arange(6))
    assert torch.equal(made(inputs), by_hand(inputs))


class Store:
    """Image files that count how often they are read; those of the second half are brighter."""

    def __init__(self, count):
        self.paths, self.reads = [f"{i}.png" for i in range(count)], 0

    def __len__(self):
        return len(self.paths)

    def read(self, i):
        self.reads += 1
        return torch.full((3, 37, 37), 51 if 2 * i < len(self) else 153, dtype=torch.uint8)

    def __getitem__(self, rows):
        read = [self.read(row) for row in rows.tolist()]
        return torch.stack(read) if read else torch.zeros(0, 3, 37, 37, dtype=torch.uint8)


def test_of_stored_images_a_sample_from_all_over_is_read():
    store = Store(5000)
    model = network(split_of(store), image_size="32")
    assert 256 <= store.reads <= 512
    assert float(model.pixel_mean) == pytest.approx(0.4, abs=0.01)  # the mean of 0.2 and 0.6
    assert model.image_shape == (3, 32, 32)  # what crops leave of 37


def test_head_is_linear_on_standardised_features():
    features = torch.randn(40, 5, generator=torch.Generator().manual_seed(1)) * 7 + 3
    features[:, 2] = 4.0
    split = split_of(features)
    model = network(split, network="head")
    standard = (features - features.mean(0)) / features.std(0, correction=0)
    standard[:, 2] = 0
    torch.testing.assert_close(model(features), model.layers[0](standard))
    changed = features.clone()
    changed[:, 2] = 1e6  # never seen to change in training
    torch.testing.assert_close(model(changed), model(features))


def test_hidden_layers_and_dropout_of_the_head():
    split = split_of(torch.randn(20, 5))
    model = network(split, network="head", network_options={"hidden": [8, 7], "dropout": 0.5})
    widths = [layer.weight.shape for layer in model.layers if isinstance(layer, nn.Linear)]
    assert widths == [(8, 5), (7, 8), (WIDTH, 7)]
    assert not torch.equal(model(split.images), model(split.images))
    model.eval()
    assert torch.equal(model(split.images), model(split.images))
    assert head_parameters(model) == []


@pytest.mark.parametrize(
    ("split", "settings", "message"),
    [
        (COLOUR, {"network": "smal"}, r"network must be one of small, .* got 'smal' \(near it: small\)"),
        (COLOUR, {"network": "head"}, "network 'head' is for features, but the data set has images"),
        (split_of(torch.randn(4, 5)), {}, "must be 'head' or an import path for features, got 'small'"),
        (COLOUR, {"network_options": {"width": 3}}, "network_options must be empty for network 'small'"),
        (split_of(images_of(4, 1, 20, 32)), {}, "image_size must be a multiple of 16, got 20 x 32"),
        (
            split_of(torch.randn(4, 5)),
            {"network": "head", "network_options": {"hiden": [3]}},
            "network_options must be of hidden, dropout for network 'head', got 'hiden'",
        ),
        (
            split_of(torch.randn(4, 5)),
            {"network": "head", "network_options": {"hidden": 3}},
            "network_options of 'head' cannot work",
        ),
    ],
)
def test_settings_of_built_in_networks_that_cannot_work_are_named(split, settings, message):
    with pytest.raises(InputError, match=message):
        network(split, **settings)


# Networks by import path


def test_a_module_that_makes_embeddings_is_used_as_it_is():
    model = network(COLOUR, network=HERE + "Embedder")
    assert type(model) is Embedder
    assert model.training
    assert model.norm.num_batches_tracked == 0
    with_head = network(COLOUR, network=HERE + "Embedder", network_options={"head": True})
    assert type(with_head.backbone) is Embedder
    assert with_head.head.weight.shape == (WIDTH, WIDTH)


def test_features_of_other_modules_are_pooled_and_get_an_embedding_layer():
    options = {"features": 7, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}
    model = network(COLOUR, network=HERE + "make_tower", network_options=options).eval()
    inputs = COLOUR.batch(torch.arange(4))
    found = model(inputs)
    scaled = (inputs - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 0.6, 0.7]).view(
        3, 1, 1
    )
    torch.testing.assert_close(model.backbone.given, scaled)
    torch.testing.assert_close(found, model.head(model.backbone(scaled).mean((2, 3))))
    assert model.head.weight.shape == (WIDTH, 7)
    assert head_parameters(model) == [model.head.weight, model.head.bias]


def test_grey_images_are_spread_over_the_channels_that_a_mean_is_given_for():
    grey = split_of(images_of(4, 1, 32, 32))
    model = network(grey, network=HERE + "Tower", network_options={"mean": [0.0, 0.5, 1.0]}).eval()
    inputs = grey.batch(torch.arange(4))
    model(inputs)
    torch.testing.assert_close(model.backbone.given, inputs - torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1))


def test_making_a_network_draws_only_its_own_numbers():
    torch.manual_seed(5)
    tower, head = Tower(features=9), nn.Linear(9, WIDTH)
    made = network(COLOUR, seed=5, network=HERE + "Tower", network_options={"features": 9})
    assert torch.equal(made.backbone.conv.weight, tower.conv.weight)
    assert torch.equal(made.head.weight, head.weight)


def test_the_module_of_the_document_is_found_in_the_current_directory(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "backbones.md").read_text(encoding="utf-8")
    code = re.search(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "nets_of_a_document.py").write_text(code[1], encoding="utf-8")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.chdir(tmp_path)
    model = network(COLOUR, network="nets_of_a_document:Net", network_options={"width": 5, "std": 0.5})
    monkeypatch.delitem(sys.modules, "nets_of_a_document")
    assert model.head.weight.shape == (WIDTH, 10)
    assert float(model.pixel_std) == 0.5


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("no_such_module:Net", {}, "module 'no_such_module' cannot be imported: No module named"),
        (HERE + "Towers", {}, r"has no 'Towers' \(near it: Tower\)"),
        (HERE + "make_number", {}, "must make a torch.nn.Module, it made one of type int"),
        (HERE + "WIDTH", {}, "must be a class or function that makes a module, got one of type int"),
        (HERE + "THERE", {}, "must be a class or function that makes a module"),
        (HERE + "Tower", {"feature": 3}, "does not take network_options {'feature': 3}"),
        (HERE + "Tower", {"channels": 1}, r"cannot take inputs of shape \[N, 3, 32, 48\]"),
        (HERE + "Tower", {"head": False}, r"must make embeddings \[N, 12\] where head is false, it made"),
        (HERE + "Tower", {"head": "yes"}, "head must be true, false or absent, got 'yes'"),
        (HERE + "Tower", {"head": False, "mean": 0.5}, "mean and std must be absent where head is false"),
        (HERE + "Tower", {"mean": ["a"]}, "network_options mean must be numbers"),
        (
            HERE + "Ends",
            {"shape": [4, 5]},
            r"must give features \[N, F\] or \[N, F, h, w\], it gave \[N, 4, 5\]",
        ),
        (HERE + "Ends", {"shape": "tuple"}, "must give one tensor, it gave tuple"),
    ],
)
def test_import_paths_that_cannot_work_are_named(name, options, message):
    with pytest.raises(ConfigError, match=message):
        network(COLOUR, network=name, network_options=options)


# timm, by a module that stands for it: it cannot be installed everywhere


@pytest.fixture
def timm(monkeypatch):
    """A package that makes one network; the arguments of every call are in ``calls``."""
    package, data = ModuleType("timm"), ModuleType("timm.data")
    package.calls = []

    def create_model(name, pretrained=False, **options):
        package.calls.append((name, pretrained, options))
        if name != "tower_50":
            raise RuntimeError(f"Unknown model ({name})")
        return Tower()

    package.create_model, package.list_models = create_model, lambda: ["tower_50"]
    data.resolve_model_data_config = lambda model: {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1)}
    monkeypatch.setitem(sys.modules, "timm", package)
    monkeypatch.setitem(sys.modules, "timm.data", data)
    return package


def test_timm_networks_have_their_own_scaling_and_no_classifier(timm):
    model = network(COLOUR, network="timm:tower_50", network_options={"drop_rate": 0.1}).eval()
    assert timm.calls == [("tower_50", True, {"num_classes": 0, "drop_rate": 0.1})]
    inputs = COLOUR.batch(torch.arange(2))
    model(inputs)
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.2, 0.1]).view(3, 1, 1)
    torch.testing.assert_close(model.backbone.given, (inputs - mean) / std)
    assert model.backbone.given.is_contiguous(memory_format=torch.channels_last)


def test_a_timm_network_is_made_again_without_reading_anything(timm):
    options = {"checkpoint_path": "weights.pth", "drop_rate": 0.1}
    config = TrainConfig(network="timm:tower_50", network_options=options, embedding_dim=WIDTH)
    rebuild(network_description(config, COLOUR))
    assert timm.calls == [("tower_50", False, {"num_classes": 0, "drop_rate": 0.1})]


def test_what_timm_lacks_is_named(timm, monkeypatch):
    with pytest.raises(
        ConfigError, match=r"'timm:tower50' cannot be made \(near it: timm:tower_50\): Unknown"
    ):
        network(COLOUR, network="timm:tower50")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"'timm:tower_50' needs timm .*: pip install timm"):
        network(COLOUR, network="timm:tower_50")
