"""One half of a retrieval data set: images, labels, and who searches among whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class ImageStore(Protocol):
    """Images that are read when asked for. A uint8 tensor [N, C, H, W] behaves the same way."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor) -> Tensor:
        """Images at `index`, int64 [n], as uint8 [n, C, H, W]."""
        ...


@dataclass(frozen=True, eq=False)
class Split:
    """A named part of a data set.

    Retrieval: every image with `is_query` is searched for among all images with `is_gallery`; an image that
    is both never finds itself. Where `cameras` is given, a gallery image of the query's class under the
    query's camera is left out too (Market-1501's rule).

    Attributes:
        name: for messages and files, such as "glyphs/test".
        images: uint8 [N, C, H, W], a tensor or an `ImageStore`; or features that another network has made of
            them, float32 [N, F].
        labels: int64 [N], an index into `class_names`. Training splits count from 0 without gaps.
        class_names: one name a class, for all classes of the data set.
        is_query: bool [N].
        is_gallery: bool [N].
        cameras: int64 [N], or None where the data set has none.
        domains: int64 [N], an index into `domain_names`: what an image's look depends on apart from its class
            (the typeface in glyphs, the super-class in Stanford Online Products), or None.
        domain_names: one name a domain; empty without `domains`.

    Raises:
        ValueError: a field has another length or dtype than stated, or an index points past its names.
    """

    name: str
    images: Tensor | ImageStore
    labels: Tensor
    class_names: tuple[str, ...]
    is_query: Tensor
    is_gallery: Tensor
    cameras: Tensor | None = None
    domains: Tensor | None = None
    domain_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        size = len(self.images)
        _check_column("labels", self.labels, size, torch.int64)
        _check_column("is_query", self.is_query, size, torch.bool)
        _check_column("is_gallery", self.is_gallery, size, torch.bool)
        _check_range("labels", self.labels, len(self.class_names), "class_names")
        if self.cameras is not None:
            _check_column("cameras", self.cameras, size, torch.int64)
        if self.domains is not None:
            _check_column("domains", self.domains, size, torch.int64)
            _check_range("domains", self.domains, len(self.domain_names), "domain_names")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """How many classes occur in this split."""
        return int(torch.unique(self.labels).numel())

    def batch(self, index: Tensor) -> Tensor:
        """Images at `index`, int64 [n], as float32 [n, C, H, W] in [0, 1]; features as they are."""
        return as_inputs(self.images[index])


def as_inputs(images: Tensor) -> Tensor:
    """What a network is given: float32 [n, C, H, W] in [0, 1] of uint8 images, features as they are."""
    if images.dtype == torch.uint8:
        return images.to(torch.float32).div_(255.0)
    return images.to(torch.float32)


def reads_files(images: Tensor | ImageStore) -> bool:
    """Whether a split's images are read from files, directly or through another store."""
    if isinstance(images, Tensor):
        return False
    inner = getattr(images, "images", None)
    return hasattr(images, "paths") or (inner is not None and reads_files(inner))


def _check_column(name: str, column: Tensor, size: int, dtype: torch.dtype) -> None:
    if tuple(column.shape) != (size,):
        raise ValueError(f"{name} must have shape [{size}], got {list(column.shape)}")
    if column.dtype != dtype:
        raise ValueError(f"{name} must have dtype {dtype}, got {column.dtype}")


def _check_range(name: str, column: Tensor, count: int, names: str) -> None:
    if column.numel() and (int(column.min()) < 0 or int(column.max()) >= count):
        low, high = int(column.min()), int(column.max())
        raise ValueError(f"{name} must lie in [0, {count - 1}], the range of {names}, got [{low}, {high}]")
