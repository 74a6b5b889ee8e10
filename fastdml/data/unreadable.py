"""Which images of a data set cannot be read: every file decoded, on all cores."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastdml.data.images import ImageFiles, UnreadableImageError

_SIZE = (64, 64)
_CHUNK = 64  # files that a thread takes at a time


def read_all(
    paths: Sequence[Path | str], workers: int | None = None
) -> Iterator[UnreadableImageError | None]:
    """Decode every file, in order: None where it can be read, else the error that says why not.

    Threads do it: Pillow decodes without holding the interpreter's lock.

    Args:
        paths: image files.
        workers: threads; None for one a core.
    """
    images = ImageFiles(paths, _SIZE)
    pool = ThreadPoolExecutor(workers or os.cpu_count())

    def troubles(first: int) -> list[UnreadableImageError | None]:
        return [_trouble(images, i) for i in range(first, min(first + _CHUNK, len(images)))]

    try:
        for found in pool.map(troubles, range(0, len(images), _CHUNK)):
            yield from found
    finally:
        pool.shutdown(cancel_futures=True)


def _trouble(images: ImageFiles, i: int) -> UnreadableImageError | None:
    try:
        images.read(i)
    except UnreadableImageError as error:
        return error
    return None
