"""Images of a split as small pictures inside the page."""

from __future__ import annotations

import base64
import io
from html import escape

import torch
from PIL import Image
from torch import Tensor

from fastdml.data import Split

_SIDE = 96  # pixels of the longer side, at most
_SAMPLE = 256  # images whose brightness decides on inversion
_JPEG_FROM = 33  # pixels of the longer side; smaller pictures in colour take little space as PNG too
_JPEG_QUALITY = 82


class Pictures:
    """Images of a split as <img> elements with their data inside; only those asked for are read.

    Grey images that are mostly dark and in memory are light strokes on black; they are shown as ink on
    paper. Of a split of features the names of the classes are shown instead.
    """

    def __init__(self, split: Split) -> None:
        self._split = split
        images = split.images
        self.are_features = isinstance(images, Tensor) and images.ndim == 2
        self._inverted = isinstance(images, Tensor) and _is_dark_and_grey(images)

    def image(self, row: int) -> str:
        """The picture of a row, described by its class and domain."""
        description = escape(self.describe(row), quote=True)
        if self.are_features:
            return f'<span class="tile" title="{description}">{escape(self._class_name(row))}</span>'
        return f'<img class="picture" src="{self.data(row)}" alt="{description}" title="{description}">'

    def describe(self, row: int) -> str:
        """The class of a row, and its domain where it has one."""
        split = self._split
        if split.domains is None:
            return self._class_name(row)
        return f"{self._class_name(row)}, {split.domain_names[int(split.domains[row])]}"

    def data(self, row: int) -> str:
        """The picture of a row as a data URI."""
        pixels = self._split.images[torch.tensor([row])][0]
        return picture_data(255 - pixels if self._inverted else pixels)

    def _class_name(self, row: int) -> str:
        return self._split.class_names[int(self._split.labels[row])]


def picture_data(pixels: Tensor) -> str:
    """uint8 [C, H, W] with one or three channels as a data URI, made smaller where it is large.

    Grey and very small pictures are PNG, others JPEG.
    """
    array = pixels.cpu().numpy()
    picture = Image.fromarray(array[0] if array.shape[0] == 1 else array.transpose(1, 2, 0))
    if max(picture.size) > _SIDE:
        picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if picture.mode == "RGB" and max(picture.size) >= _JPEG_FROM:
        picture.save(buffer, format="JPEG", quality=_JPEG_QUALITY, optimize=True)
        kind = "jpeg"
    else:
        picture.save(buffer, format="PNG", optimize=True)
        kind = "png"
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _is_dark_and_grey(images: Tensor) -> bool:
    return images.ndim == 4 and images.shape[1] == 1 and float(images[:_SAMPLE].float().mean()) < 100.0
