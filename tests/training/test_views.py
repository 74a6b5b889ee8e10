"""What a network sees of photographs: other parts each time it learns, the middle to be judged by."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from data import trees

from fastdml.data import Split, load_dataset
from fastdml.training import TrainConfig
from fastdml.training.views import make_views, shown_shape, stored_size

CPU = torch.device("cpu")


def opened(folder: Path, config: TrainConfig) -> Split:
    trees.write_folders(folder)
    return load_dataset(folder, size=stored_size(config), fit=config.fit).train


def noise(config: TrainConfig) -> torch.Tensor:
    size = (4, 3, *stored_size(config))
    return torch.randint(0, 256, size, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("settings", "stored"),
    [({}, (32, 32)), ({"image_size": "28x14"}, (32, 16)), ({"fit": "stretch"}, (28, 28))],
)
def test_learning_sees_random_parts_and_judging_the_middle(tmp_path, settings, stored):
    config = TrainConfig(data="files", **{"image_size": "28", **settings})
    split = opened(tmp_path, config)
    assert tuple(split.images[torch.tensor([0])].shape[2:]) == stored == stored_size(config)
    views, images = make_views(config, split), noise(config)
    height, width = shown_shape(config, split)[1:]
    top, left = (stored[0] - height) // 2, (stored[1] - width) // 2
    middle = images[..., top : top + height, left : left + width] / 255
    assert torch.equal(views.of_test(images, CPU), middle)

    learnt = views.of_training(images, 1, CPU)
    assert torch.equal(learnt, views.of_training(images, 1, CPU))
    assert learnt.shape == middle.shape
    for other in (views.of_training(images, 2, CPU), middle, middle.flip(3)):
        assert ((learnt - other).abs().mean((1, 2, 3)) > 0.05).all()  # every image has changed


def test_without_augmentation_learning_sees_what_is_judged(tmp_path):
    config = TrainConfig(data="files", image_size="28", augment=False)
    views, images = make_views(config, opened(tmp_path, config)), noise(config)
    assert stored_size(config) == (28, 28)
    assert torch.equal(views.of_training(images, 1, CPU), images / 255)
    assert torch.equal(views.of_test(images, CPU), images / 255)
