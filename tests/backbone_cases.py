"""Networks of a person's own and splits for them, for the tests of backbones."""

from __future__ import annotations

import torch
from torch import nn

from fastdml.data import Split
from fastdml.training import EmbeddingNetwork, TrainConfig
from fastdml.training.backbones import make_network

WIDTH = 12


def split_of(images):
    count = len(images)
    everyone = torch.ones(count, dtype=torch.bool)
    labels = torch.arange(count) % 2
    return Split("made/train", images, labels, ("a", "b"), everyone, everyone)


def images_of(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def network(split, seed=0, **settings):
    torch.manual_seed(seed)
    return make_network(TrainConfig(**{"embedding_dim": WIDTH, "network_width": 4, **settings}), split)


class Tower(nn.Module):
    """A backbone whose features are maps; what it is given is kept."""

    def __init__(self, channels=3, features=6):
        super().__init__()
        self.conv = nn.Conv2d(channels, features, 3, stride=2)
        self.norm = nn.BatchNorm2d(features)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images):
        self.given = images
        return self.dropout(self.norm(self.conv(images)))


class Embedder(nn.Module):
    def __init__(self, width=WIDTH):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.layer = nn.Linear(3, width)

    def forward(self, images):
        return self.layer(self.norm(images).mean((2, 3)))


class Ends(nn.Module):
    """Gives whatever it was made with."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape

    def forward(self, images):
        return tuple(images) if self.shape == "tuple" else images.new_zeros(len(images), *self.shape)


def make_tower(**options):
    return Tower(**options)


def make_number():
    return 3


THERE = EmbeddingNetwork(4, 4)
HERE = f"{__name__}:"  # the start of an import path
COLOUR = split_of(images_of(10, 3, 32, 48))
