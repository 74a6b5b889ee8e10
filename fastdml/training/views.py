"""What a network is shown of an image: a perturbed view while it learns, the plain one to be judged by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastdml.data import Augment, Split
from fastdml.data.split import as_inputs, reads_files
from fastdml.training.config import ConfigError, TrainConfig

View = Callable[[Tensor, torch.Generator], Tensor]
_MARGIN = 8 / 7  # files are read larger than the network's images by this, 256 for 224


@dataclass(frozen=True)
class Views:
    """From stored images to what a network is given.

    Attributes:
        perturb: of float32 [B, C, H, W] in [0, 1] and a generator; None: images are learnt as they are.
        size: (height, width) of the network's images; None: those of the stored ones.
    """

    perturb: View | None = None
    size: tuple[int, int] | None = None

    def of_training(self, images: Tensor, seed: int, device: torch.device) -> Tensor:
        """Inputs to learn from, on ``device``: a function of the images, of ``seed`` and of the device."""
        inputs = as_inputs(images.to(device, non_blocking=True))
        if self.perturb is None:
            return self._plain(inputs)
        return self.perturb(inputs, torch.Generator(device).manual_seed(seed))

    def of_test(self, images: Tensor, device: torch.device) -> Tensor:
        """Inputs to be judged by, on ``device``."""
        return self._plain(as_inputs(images.to(device, non_blocking=True)))

    def _plain(self, inputs: Tensor) -> Tensor:
        if self.size is None or tuple(inputs.shape[-2:]) == self.size:
            return inputs
        from fastdml.data.photos import centre

        return centre(inputs, self.size)


def stored_size(config: TrainConfig) -> tuple[int, int]:
    """(height, width) that files are read at: with room for random crops where they are cropped."""
    height, width = config.pixels or (224, 224)
    if config.fit == "stretch" or not config.augment:
        return height, width
    return round(height * _MARGIN), round(width * _MARGIN)


def shown_shape(config: TrainConfig, train: Split) -> tuple[int, ...]:
    """(C, H, W) of the images that the network of a run is given, or (F,) of features; nothing is read."""
    shape = tuple(train.images[torch.zeros(0, dtype=torch.int64)].shape[1:])
    if not reads_files(train.images):
        return shape
    return (shape[0], *(config.pixels or (224, 224)))


def make_views(config: TrainConfig, train: Split) -> Views:
    """The views of a run: random crops and mirror images of photographs, wobbling drawings of grey images."""
    shape = shown_shape(config, train)
    if len(shape) != 3:
        return Views()  # features
    if not reads_files(train.images):
        return Views(Augment() if config.augment else None)
    size = shape[1], shape[2]
    if not config.augment:
        return Views(None, size)
    from fastdml.data.photos import PhotoAugment

    try:
        if config.fit == "crop":
            return Views(PhotoAugment(size), size)
        aspect = size[1] / size[0]  # what fills its image, as a person in re-identification, is cut little
        return Views(PhotoAugment(size, scale=(0.7, 1.0), ratio=(0.9 * aspect, 1.1 * aspect)), size)
    except ImportError as error:
        raise ConfigError(f"augment must be false here: {error}") from error
