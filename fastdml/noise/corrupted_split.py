"""Planted noise in a data set: labels as in `corrupt`, and images of no class."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastdml.noise.corruption import CorruptedLabels, NoiseKind, corrupt

if TYPE_CHECKING:
    from fastdml.data import Split
    from fastdml.data.split import ImageStore

TILES = 4
"""A patchwork has this many tiles along each side."""


def corrupt_split(
    split: Split, kind: NoiseKind = "wrong-id", rate: float = 0.2, *, seed: int = 0
) -> tuple[Split, CorruptedLabels]:
    """A split with planted noise: see `corrupt` for the kinds, of which "several-ids" adds samples.

    A sample of "no-id" becomes a patchwork of 4 x 4 tiles, each cut at its own place out of an image of the
    split drawn at random: the strokes, the greys and the ground of the data, and none of its classes.

    Args:
        split: its class names, cameras and domains stay with the images.
        kind: one of `fastdml.noise.KINDS`.
        rate: share of the samples, from 0 to below 1.
        seed: of all that is drawn.

    Returns:
        The split with its images read when asked for, and what was planted.

    Raises:
        InputError: as `corrupt`.
    """
    planted = corrupt(split.labels, kind, rate, seed=seed)
    source = planted.source
    donors = None
    if kind == "no-id":
        generator = torch.Generator().manual_seed(seed + 1)
        donors = torch.randint(len(split), (len(source), TILES * TILES), generator=generator)
        donors[~planted.is_noisy] = -1
    changed = replace(
        split,
        images=CorruptedImages(split.images, source, donors),
        labels=planted.labels,
        is_query=split.is_query[source],
        is_gallery=split.is_gallery[source],
        cameras=None if split.cameras is None else split.cameras[source],
        domains=None if split.domains is None else split.domains[source],
    )
    return changed, planted


@dataclass(frozen=True, eq=False)
class CorruptedImages:
    """Images of a split in another order, some of them a patchwork. An `ImageStore`.

    Attributes:
        images: uint8 [N, C, H, W], a tensor or an `ImageStore`.
        source: [M], int64, the image that each is.
        donors: [M, TILES * TILES], int64, the image of each tile, -1 where it is no patchwork; None: none is.
    """

    images: Tensor | ImageStore
    source: Tensor
    donors: Tensor | None = None

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Tensor) -> Tensor:
        """uint8 [n, C, H, W] for int64 [n]."""
        found = self.images[self.source[index]]
        if self.donors is None:
            return found
        donors = self.donors[index]
        patched = torch.nonzero(donors[:, 0] >= 0).squeeze(1)
        if not len(patched):
            return found
        return found.index_copy(0, patched, self._patchwork(donors[patched]))

    def _patchwork(self, donors: Tensor) -> Tensor:
        """uint8 [n, C, H, W] from the donors int64 [n, TILES * TILES] of its tiles."""
        whole = self.images[donors.flatten()].unflatten(0, donors.shape)  # [n, T * T, C, H, W]
        result = whole[:, 0].clone()
        height, width = result.shape[-2:]
        for tile in range(1, TILES * TILES):
            down, across = divmod(tile, TILES)
            rows = slice(down * height // TILES, (down + 1) * height // TILES)
            columns = slice(across * width // TILES, (across + 1) * width // TILES)
            result[:, :, rows, columns] = whole[:, tile, :, rows, columns]
        return result
