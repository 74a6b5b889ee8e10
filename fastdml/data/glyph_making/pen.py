"""Draw one kanji of one face as a small grey picture, plain or perturbed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fontTools.ttLib import TTFont
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

FINE = 4  # drawing happens on a grid this many times finer, then averages down
EM = 27 / 32  # pixels per em, of one pixel of side
FIT = 30 / 32  # longest side that a glyph's ink may have, of one pixel of side
LEVELS = 16  # grey levels stored: 0, 17, ..., 255

Grey = NDArray[np.uint8]


@dataclass(frozen=True)
class Perturbation:
    """Ranges of the test pictures' perturbation: pixels of a side of 32, degrees, greys in [0, 1]."""

    rotation: float = 18.0
    shear: float = 0.28
    scale: tuple[float, float] = (0.72, 1.04)
    stretch: float = 0.16  # log of width over height, either way
    shift: float = 4.5
    blur: tuple[float, float] = (0.0, 0.75)  # standard deviation
    gain: tuple[float, float] = (0.65, 1.0)
    noise: tuple[float, float] = (0.02, 0.10)  # standard deviation


class Pen:
    """Draws kanji of one font file for pictures of `side` pixels."""

    def __init__(self, path: Path, index: int = 0, side: int = 32) -> None:
        with TTFont(path, fontNumber=index, lazy=True) as tables:
            self.covered: frozenset[int] = frozenset(tables.getBestCmap())
        self._em = round(EM * FINE * side)
        engine = ImageFont.Layout.BASIC
        self._font = ImageFont.truetype(str(path), self._em, index=index, layout_engine=engine)
        self._missing = self._draw("\U0010fffe")

    def ink(self, kanji: str) -> Image.Image | None:
        """Cropped ink of `kanji` on the fine grid; None if the face lacks it, or draws nothing or a box."""
        if ord(kanji) not in self.covered:
            return None
        drawn = self._draw(kanji)
        if drawn is None or (self._missing is not None and drawn.tobytes() == self._missing.tobytes()):
            return None
        return drawn

    def _draw(self, text: str) -> Image.Image | None:
        canvas = Image.new("L", (3 * self._em, 3 * self._em))
        corner = (self._em, 2 * self._em)
        ImageDraw.Draw(canvas).text(corner, text, font=self._font, fill=255, anchor="ls")
        box = canvas.getbbox()
        return None if box is None else canvas.crop(box)


def plain(ink: Image.Image, side: int = 32) -> Grey:
    """Ink centred and averaged down: uint8 [side, side], 0 is paper and 255 is ink."""
    scale = min(1.0, FIT * side * FINE / max(ink.size))
    return _to_levels(_average(_place(ink, side, scale, 0.0, 0.0, 0.0, 0.0, 0.0)))


def perturbed(ink: Image.Image, rng: np.random.Generator, how: Perturbation, side: int = 32) -> Grey:
    """Like `plain`, after a random turn, shear, stretch, scale and shift, blur, a paler ink and noise.

    The shift is held back where it would push ink over the border.
    """
    unit = side / 32
    rotation = math.radians(rng.uniform(-how.rotation, how.rotation))
    shear = rng.uniform(-how.shear, how.shear)
    scale = rng.uniform(*how.scale)
    stretch = rng.uniform(-how.stretch, how.stretch)
    dx, dy = unit * rng.uniform(-how.shift, how.shift, size=2)
    blur, gain, noise = rng.uniform(*how.blur), rng.uniform(*how.gain), rng.uniform(*how.noise)
    fine = _place(ink, side, scale, rotation, shear, stretch, dx, dy)
    image = _average(fine.filter(ImageFilter.GaussianBlur(blur * FINE * unit)))
    return _to_levels(image * gain + 255.0 * noise * rng.standard_normal(image.shape))


def _place(
    ink: Image.Image,
    side: int,
    scale: float,
    rotation: float,
    shear: float,
    stretch: float,
    dx: float,
    dy: float,
) -> Image.Image:
    """Ink on the fine canvas, mapped about its centre; shrunk and shifted back to stay inside."""
    cos, sin = math.cos(rotation), math.sin(rotation)
    turn = np.array([[cos, -sin], [sin, cos]])
    matrix = scale * turn @ np.array([[math.exp(stretch / 2), shear], [0.0, math.exp(-stretch / 2)]])
    half = np.abs(matrix) @ (np.array(ink.size) / 2)  # half extent of the mapped box
    shrink = min(1.0, FIT * side * FINE / 2 / half.max())
    matrix *= shrink
    half *= shrink
    middle = side * FINE / 2
    room = np.maximum(middle - FINE - half, 0.0)
    centre = middle + np.clip(np.array([dx, dy]) * FINE, -room, room)
    back = np.linalg.inv(matrix)  # the image library asks where each target pixel comes from
    origin = np.array(ink.size) / 2 - back @ centre
    terms = (back[0, 0], back[0, 1], origin[0], back[1, 0], back[1, 1], origin[1])
    fine = (side * FINE, side * FINE)
    return ink.transform(fine, Image.Transform.AFFINE, terms, Image.Resampling.BILINEAR)


def _average(fine: Image.Image) -> NDArray[np.float64]:
    return np.asarray(fine.reduce(FINE), dtype=np.float64)


def _to_levels(image: NDArray[np.float64]) -> Grey:
    step = 255 // (LEVELS - 1)
    return (np.clip(np.rint(image / step), 0, LEVELS - 1) * step).astype(np.uint8)
