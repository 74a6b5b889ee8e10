"""Random changes to a batch of images, one set of numbers for each image, all in torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_KERNEL = 5  # taps of the blur


@dataclass(frozen=True)
class Augment:
    """Turns, shears, scales, shifts, blurs, pales, speckles and patches out images, batch by batch.

    Every image of a batch gets its own numbers, drawn uniformly from the ranges below. The same generator
    state gives the same output on the same device. The defaults suit glyphs: light strokes on a black ground
    of 0, which also fills what a shift uncovers. A value of 0 (or (1, 1) for `scale` and `gain`) turns a
    change off.

    Attributes:
        rotation: largest turn either way, degrees.
        shear: largest shear either way, width over height.
        scale: least and greatest size of the content, 1 for unchanged.
        stretch: greatest |log(width / height)| of the content.
        shift: largest move either way along each axis, as a part of the image's side.
        blur: greatest standard deviation of a Gaussian blur (5 x 5), pixels.
        gain: least and greatest factor on brightness.
        noise: greatest standard deviation of added Gaussian noise, on the scale of [0, 1].
        erase: probability that a rectangle is set to 0.
        erase_side: least and greatest side of that rectangle, as a part of the image's side.

    Raises:
        ValueError: a range is empty or below zero, or `erase` is no probability.
    """

    rotation: float = 18.0
    shear: float = 0.28
    scale: tuple[float, float] = (0.72, 1.06)
    stretch: float = 0.16
    shift: float = 0.1
    blur: float = 0.75
    gain: tuple[float, float] = (0.65, 1.0)
    noise: float = 0.1
    erase: float = 0.2
    erase_side: tuple[float, float] = (0.15, 0.35)

    def __post_init__(self) -> None:
        for name in ("rotation", "shear", "stretch", "shift", "blur", "noise"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("scale", "gain", "erase_side"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be (low, high) with 0 < low <= high, got {(low, high)}")
        if not 0 <= self.erase <= 1:
            raise ValueError(f"erase must be a probability in [0, 1], got {self.erase}")

    @torch.no_grad()
    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Changed copies of `images`.

        Args:
            images: float32 [B, C, H, W] in [0, 1]; no gradient flows back to them.
            generator: on the images' device; its state moves on.

        Returns:
            float32 [B, C, H, W] in [0, 1], contiguous; B = 0 gives an empty copy.

        Raises:
            ValueError: `images` is not four-dimensional, not float32, or on another device than `generator`.
        """
        check_images(images, generator)
        if images.numel() == 0:
            return images.clone()
        out = self._affine(images, generator)
        if self.blur:
            out = _blur(out, uniform(len(images), 0.0, self.blur, generator))
        if self.gain != (1.0, 1.0):
            out.mul_(uniform(len(images), *self.gain, generator)[:, None, None, None])
        if self.noise:
            level = uniform(len(images), 0.0, self.noise, generator)[:, None, None, None]
            speckle = torch.randn(out.shape, generator=generator, device=out.device)
            out.addcmul_(speckle, level)
        if self.erase:
            out.mul_(self._kept(out, generator))
        return out.clamp_(0.0, 1.0)

    def _affine(self, images: Tensor, generator: torch.Generator) -> Tensor:
        size = len(images)
        angle = uniform(size, -self.rotation, self.rotation, generator) * (math.pi / 180)
        shear = uniform(size, -self.shear, self.shear, generator)
        scale = uniform(size, *self.scale, generator)
        stretch = uniform(size, -self.stretch / 2, self.stretch / 2, generator).exp()
        dx = uniform(size, -2 * self.shift, 2 * self.shift, generator)  # the grid spans [-1, 1]
        dy = uniform(size, -2 * self.shift, 2 * self.shift, generator)
        cos, sin = angle.cos(), angle.sin()
        # Output to input: the inverse of scale * turn * [[stretch, shear], [0, 1 / stretch]], written out.
        wide, tall = 1 / (stretch * scale), stretch / scale
        a = wide * cos + shear * sin / scale
        b = wide * sin - shear * cos / scale
        c, d = -sin * tall, cos * tall
        height, width = images.shape[-2:]
        x, y = _middles(width, images.device), _middles(height, images.device)
        grid = images.new_empty(size, height, width, 2)
        for axis, (along_x, along_y) in enumerate(((a, b), (c, d))):
            column = along_x[:, None] * x  # [B, W]
            row = along_y[:, None] * y - (along_x * dx + along_y * dy)[:, None]  # [B, H]
            torch.add(column[:, None, :], row[:, :, None], out=grid[..., axis])
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    def _kept(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """1 where a pixel stays and 0 in the rectangle: [B, 1, H, W]."""
        size, _, height, width = images.shape
        hit = torch.rand(size, generator=generator, device=images.device) < self.erase
        rows = self._band(size, height, generator)  # [B, H]
        columns = self._band(size, width, generator)  # [B, W]
        patch = (rows[:, :, None] & columns[:, None, :]) & hit[:, None, None]
        return (~patch).to(images.dtype).unsqueeze(1)

    def _band(self, size: int, side: int, generator: torch.Generator) -> Tensor:
        length = uniform(size, *self.erase_side, generator) * side
        start = uniform(size, 0.0, 1.0, generator) * (side - length)
        pixel = torch.arange(side, device=generator.device) + 0.5
        return (pixel >= start[:, None]) & (pixel < (start + length)[:, None])


def check_images(images: Tensor, generator: torch.Generator) -> None:
    """Raises ValueError unless images are float32 [B, C, H, W] on the generator's device."""
    if images.dim() != 4:
        raise ValueError(f"images must have shape [B, C, H, W], got {list(images.shape)}")
    if images.dtype != torch.float32:
        raise ValueError(f"images must have dtype torch.float32 with values in [0, 1], got {images.dtype}")
    if images.device.type != generator.device.type:
        raise ValueError(f"generator must be on the images' device {images.device}, got {generator.device}")


def _middles(side: int, device: torch.device) -> Tensor:
    """Middles of `side` pixels on the sampling grid's scale, where the image's edges are -1 and 1."""
    return (2 * torch.arange(side, device=device) + 1) / side - 1


def uniform(size: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Numbers drawn from [low, high), float32 [size] on the generator's device."""
    return torch.rand(size, generator=generator, device=generator.device) * (high - low) + low


def _blur(images: Tensor, deviation: Tensor) -> Tensor:
    """Gaussian blur of [B, C, H, W] by `deviation` [B], pixels: a pass of 5 taps along each axis."""
    height, width = images.shape[-2:]
    offset = torch.arange(_KERNEL, device=images.device) - _KERNEL // 2
    taps = torch.exp(-0.5 * (offset / deviation.clamp_min(1e-3)[:, None]).square())  # [B, 5]
    taps = (taps / taps.sum(1, keepdim=True))[:, :, None, None, None]
    pad = _KERNEL // 2
    wide = F.pad(images, (pad, pad, 0, 0), mode="replicate")
    rows = taps[:, 0] * wide[..., :width]
    for k in range(1, _KERNEL):
        rows.addcmul_(taps[:, k], wide[..., k : k + width])
    tall = F.pad(rows, (0, 0, pad, pad), mode="replicate")
    out = taps[:, 0] * tall[..., :height, :]
    for k in range(1, _KERNEL):
        out.addcmul_(taps[:, k], tall[..., k : k + height, :])
    return out
