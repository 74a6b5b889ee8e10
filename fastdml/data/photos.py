"""Random crops, flips and colours of photographs, a batch at a time on its device, with kornia."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdml.data.augment import check_images, uniform
from fastdml.errors import InputError


@dataclass(frozen=True)
class PhotoAugment:
    """A random crop of every photograph, resized and perhaps mirrored; colours and erasing where asked.

    Every image of a batch gets its own numbers. The same generator state gives the same output on the same
    device. Use as :class:`fastdml.data.Augment`; needs kornia. The crop is interpolated linearly, so `size`
    should be about that of the images or larger, up to a half smaller.

    Attributes:
        size: (height, width) of the result, pixels.
        scale: least and greatest area of the crop, as a part of the image's; drawn uniformly.
        ratio: least and greatest width / height of the crop in the image, drawn uniformly on a log scale from
            what lies inside the image. Where no ratio can have the area drawn, the area is the largest that
            one can.
        flip: probability that left and right are exchanged.
        brightness: greatest change of the factor 1 on all values.
        contrast: greatest change of the factor 1 on the distance from the image's mean grey.
        saturation: greatest change of the factor 1 on the distance from each pixel's grey.
        hue: greatest turn of the colour circle either way, as a part of it. Brightness, contrast, saturation
            and hue are changed in this order; 0 turns one off.
        erase: probability that a rectangle is filled with the image's mean colour.
        erase_area: least and greatest area of that rectangle, as a part of the result's.
        erase_ratio: least and greatest width / height of it; treated as `ratio` is.

    Raises:
        InputError: a size or range is empty or out of bounds, or a probability is none.
        ImportError: kornia is not installed.
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (0.16, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    erase: float = 0.0
    erase_area: tuple[float, float] = (0.02, 0.4)
    erase_ratio: tuple[float, float] = (0.3, 1 / 0.3)

    def __post_init__(self) -> None:
        _check_size(self.size)
        for name in ("scale", "erase_area"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise InputError(f"{name} must be (low, high) with 0 < low <= high <= 1, got {(low, high)}")
        for name in ("ratio", "erase_ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise InputError(f"{name} must be (low, high) with 0 < low <= high, got {(low, high)}")
        for name in ("flip", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be a probability in [0, 1], got {getattr(self, name)}")
        for name, most in {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.5}.items():
            if not 0 <= getattr(self, name) <= most:
                raise InputError(f"{name} must lie in [0, {most}], got {getattr(self, name)}")
        try:
            import kornia  # noqa: F401
        except ImportError as error:
            message = "PhotoAugment needs kornia, which is not installed: pip install 'fastdml[images]'"
            raise ImportError(message) from error

    @torch.no_grad()
    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Changed copies of `images`.

        Args:
            images: float32 [B, C, H, W] in [0, 1]; no gradient flows back to them.
            generator: on the images' device; its state moves on.

        Returns:
            float32 [B, C, *size] in [0, 1], contiguous; B = 0 gives an empty one.

        Raises:
            ValueError: `images` is not four-dimensional, not float32, on another device than `generator`, or
                has not the 3 channels that saturation and hue need.
        """
        check_images(images, generator)
        if (self.saturation or self.hue) and images.shape[1] != 3:
            raise InputError(f"images must have 3 channels for saturation and hue, got {list(images.shape)}")
        if images.numel() == 0:
            return images.new_empty(len(images), images.shape[1], *self.size)
        out = self._coloured(self._cropped(images, generator), generator)
        if self.erase:
            kept = self._kept(out, generator)  # [B, 1, h, w]
            out = torch.where(kept, out, out.mean((2, 3), keepdim=True))
        return out.clamp(0.0, 1.0).contiguous()

    def _cropped(self, images: Tensor, generator: torch.Generator) -> Tensor:
        from kornia.geometry.transform import remap

        size = len(images)
        left, top, wide, tall = _boxes(size, images.shape[-2:], self.scale, self.ratio, generator)
        mirrored = uniform(size, 0.0, 1.0, generator) < self.flip
        x = _places(self.size[1], left, wide)  # [B, w]
        x = torch.where(mirrored[:, None], x.flip(1), x)[:, None, :].expand(size, *self.size)
        y = _places(self.size[0], top, tall)[:, :, None].expand(size, *self.size)
        return remap(images, x, y, padding_mode="border", align_corners=True)

    def _coloured(self, images: Tensor, generator: torch.Generator) -> Tensor:
        from kornia import enhance

        for most, adjust in (
            (self.brightness, enhance.adjust_brightness_accumulative),
            (self.contrast, enhance.adjust_contrast_with_mean_subtraction),
            (self.saturation, enhance.adjust_saturation_with_gray_subtraction),
        ):
            if most:
                images = adjust(images, uniform(len(images), 1 - most, 1 + most, generator))
        if self.hue:
            turn = uniform(len(images), -self.hue, self.hue, generator) * (2 * torch.pi)
            images = enhance.adjust_hue(images, turn)
        return images

    def _kept(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """False in the rectangle to erase: bool [B, 1, h, w]."""
        size, _, height, width = images.shape
        hit = uniform(size, 0.0, 1.0, generator) < self.erase
        left, top, wide, tall = _boxes(size, (height, width), self.erase_area, self.erase_ratio, generator)
        columns = _inside(width, left, wide)  # [B, w]
        rows = _inside(height, top, tall)  # [B, h]
        return ~(rows[:, :, None] & columns[:, None, :] & hit[:, None, None]).unsqueeze(1)


def centre(images: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of images, for evaluation; smaller images are scaled up first until they fill `size`.

    Args:
        images: float32 [B, C, H, W].
        size: (height, width) of the result, pixels.

    Returns:
        float32 [B, C, *size]; a view where nothing was scaled.

    Raises:
        InputError: `images` is not four-dimensional, or `size` is below 1.
    """
    if images.dim() != 4:
        raise InputError(f"images must have shape [B, C, H, W], got {list(images.shape)}")
    _check_size(size)
    tall, wide = images.shape[-2:]
    factor = max(size[0] / tall, size[1] / wide)
    if factor > 1 and len(images):
        tall, wide = max(size[0], round(tall * factor)), max(size[1], round(wide * factor))
        images = F.interpolate(images, (tall, wide), mode="bilinear", align_corners=False)
    elif factor > 1:
        return images.new_empty(0, images.shape[1], *size)
    top, left = (tall - size[0]) // 2, (wide - size[1]) // 2
    return images[..., top : top + size[0], left : left + size[1]]


def _boxes(
    count: int,
    size: Sequence[int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes inside an image of `size`: left, top, width and height [count] each, pixels, not rounded."""
    height, width = size
    own = width / height
    largest = height * width * min(1.0, ratio[1] / own, own / ratio[0])  # that has one of the ratios
    area = (uniform(count, *scale, generator) * (height * width)).clamp_max(largest)
    low = (area / height**2).clamp_min(ratio[0]).log()  # below it a box is taller than the image
    high = (width**2 / area).clamp_max(ratio[1]).log()
    drawn = torch.lerp(low, high, uniform(count, 0.0, 1.0, generator)).exp()
    wide = (area * drawn).sqrt().clamp_max(width)
    tall = (area / drawn).sqrt().clamp_max(height)
    left = uniform(count, 0.0, 1.0, generator) * (width - wide)
    top = uniform(count, 0.0, 1.0, generator) * (height - tall)
    return left, top, wide, tall


def _places(count: int, start: Tensor, length: Tensor) -> Tensor:
    """Middles of `count` pixels that share [start, start + length) out, [B, count]; pixel 0 is in [0, 1)."""
    return start[:, None] + (torch.arange(count, device=start.device) + 0.5) * (length / count)[:, None] - 0.5


def _inside(side: int, start: Tensor, length: Tensor) -> Tensor:
    """Which of `side` pixels have their middle in [start, start + length): bool [B, side]."""
    pixel = torch.arange(side, device=start.device) + 0.5
    return (pixel >= start[:, None]) & (pixel < (start + length)[:, None])


def _check_size(size: tuple[int, int]) -> None:
    if len(size) != 2 or min(size) < 1:
        raise InputError(f"size must be (height, width) of at least 1 pixel each, got {size}")
