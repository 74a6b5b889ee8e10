"""Image files that are read when asked for, every one as RGB (or grey) bytes of one size."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from fastdml.errors import InputError

FITS = ("crop", "stretch")
ON_ERROR = ("stop", "skip")
HOW_TO_SKIP = "on_error='skip' (of a command --on-unreadable skip) leaves such images out"

_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LYING = (5, 6, 7, 8)  # orientations stored with width and height exchanged


class UnreadableImageError(InputError):
    """A file that cannot be read as an image; `path` is the file and `why` the reason."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(path, why)
        self.path = path
        self.why = why

    def __str__(self) -> str:
        return f"{self.path} cannot be read as an image: {self.why}; {HOW_TO_SKIP}"


class ImageFiles:
    """An `ImageStore` of files in any format and mode that Pillow reads.

    Palettes, CMYK, 16 bits and grey become RGB, transparent parts white, and photographs are turned as their
    EXIF orientation says. It holds the paths alone, so it is small to send to a worker process.

    Args:
        paths: files, in the order of the split's rows.
        size: (height, width) of every image read, pixels.
        fit: "crop" scales until the shorter side fits and cuts the middle out, "stretch" scales both sides.
        on_error: what happens to a file that cannot be read: "stop" raises, "skip" gives None or zeros.
        channels: 3 for RGB, 1 for grey.

    Raises:
        InputError: an argument is none of these.
    """

    def __init__(
        self,
        paths: Sequence[Path | str],
        size: tuple[int, int],
        fit: str = "crop",
        on_error: str = "stop",
        channels: int = 3,
    ) -> None:
        if len(size) != 2 or min(size) < 1:
            raise InputError(f"size must be (height, width) of at least 1 pixel each, got {size}")
        if fit not in FITS:
            raise InputError(f"fit must be one of {', '.join(FITS)}, got {fit!r}")
        if on_error not in ON_ERROR:
            raise InputError(f"on_error must be one of {', '.join(ON_ERROR)}, got {on_error!r}")
        if channels not in (1, 3):
            raise InputError(f"channels must be 3 or 1, got {channels}")
        self.paths = [os.fspath(path) for path in paths]
        self.size = size
        self.fit = fit
        self.on_error = on_error
        self.channels = channels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Images at `rows`, int64 [n], as uint8 [n, C, H, W]; zeros where one was skipped."""
        images = torch.zeros(len(rows), self.channels, *self.size, dtype=torch.uint8)
        for place, row in enumerate(rows.tolist()):
            image = self.read(row)
            if image is not None:
                images[place] = image
        return images

    def read(self, i: int) -> Tensor | None:
        """Image `i` as uint8 [C, H, W]; None where it is unreadable and `on_error` is "skip".

        Raises:
            UnreadableImageError: it is unreadable and `on_error` is "stop".
        """
        path = self.paths[i]
        try:
            return self._decode(path)
        except MemoryError:
            raise
        except Exception as error:  # a damaged file makes decoders raise nearly anything
            if self.on_error == "skip":
                return None
            raise UnreadableImageError(path, _reason(error, path)) from error

    def _decode(self, path: str) -> Tensor:
        mode = "RGB" if self.channels == 3 else "L"
        height, width = self.size
        with Image.open(path) as file:
            orientation = _orientation(file)
            if orientation in _LYING:
                height, width = width, height
            _draft(file, mode, height, width)
            image = _opaque(file, mode)
        box = None if self.fit == "stretch" else _middle(image.width, image.height, width, height)
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR, box)
        if orientation in _UPRIGHT:
            image = image.transpose(_UPRIGHT[orientation])
        pixels = torch.from_numpy(np.array(image))  # [H, W] or [H, W, 3]
        return pixels.unsqueeze(0) if mode == "L" else pixels.permute(2, 0, 1).contiguous()


def _orientation(file: Image.Image) -> int:
    try:
        return int(file.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block leaves the pixels as they are
        return 1


def _draft(file: Image.Image, mode: str, height: int, width: int) -> None:
    """Let a large JPEG be decoded at a half, a quarter or an eighth, at least twice the size wanted."""
    if file.format == "JPEG":
        factor = 2 * max(width / file.width, height / file.height)
        if factor < 1:
            file.draft(mode, (round(file.width * factor), round(file.height * factor)))


def _opaque(file: Image.Image, mode: str) -> Image.Image:
    """The picture in RGB or L, 8 bits, on white where it is transparent."""
    if file.mode.startswith(("I;16", "I")):
        deep = np.asarray(file).astype(np.float32)
        grey = Image.fromarray((deep.clip(0, 65535) / 257).round().astype(np.uint8))
        return grey.convert(mode)
    if "A" in file.getbands() or "a" in file.getbands() or "transparency" in file.info:
        picture = file.convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(ground, picture).convert(mode)
    return file.convert(mode)


def _middle(wide: int, tall: int, width: int, height: int) -> tuple[float, float, float, float]:
    """The largest box in the middle of wide x tall with the proportions of width x height."""
    scale = min(wide / width, tall / height)
    across, down = min(width * scale, wide), min(height * scale, tall)  # rounding may go past an edge
    left, top = (wide - across) / 2, (tall - down) / 2
    return left, top, min(left + across, wide), min(top + down, tall)


def _reason(error: Exception, path: str) -> str:
    """What went wrong in words, without the path that the message names anyway."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, UnidentifiedImageError):
        empty = os.path.getsize(path) == 0
        return "the file is empty" if empty else "it is of no image format that is known"
    text = str(error).replace(f"'{path}'", "it").replace(path, "it")
    return text or type(error).__name__
