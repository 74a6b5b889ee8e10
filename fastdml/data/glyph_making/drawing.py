"""Choose the kanji of a set and draw both its halves, in several processes where asked."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import combinations
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastdml.data.glyph_making.fonts import FontError, Source
from fastdml.data.glyph_making.pen import Grey, Pen, Perturbation, perturbed, plain
from fastdml.data.glyph_making.sets import GALLERY, GlyphSet
from fastdml.errors import InputError

FEWEST_INK = 12.0  # fully inked pixels of 32 x 32 below which a drawing counts as blank
NEAREST_FACES = 15.0  # mean absolute grey difference below which two faces count as the same design
COMPARED = 400  # kanji by which faces are compared
TASK = 8  # kanji that a process is given at once

Report = Callable[[str, int, int], None]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Arrays:
    """One half of a set: images uint8 [N, side, side], label and font uint16 [N]."""

    images: Grey
    label: NDArray[np.uint16]
    font: NDArray[np.uint16]


@dataclass(frozen=True)
class Drawn:
    """A kanji in every face of a set: images uint8 [faces, side, side], a digest of each face's fine ink."""

    kanji: str
    images: Grey
    prints: tuple[bytes, ...]


class Drawer:
    """Draws kanji in every face of a set."""

    def __init__(self, what: GlyphSet, paths: Sequence[Path]) -> None:
        self._what = what
        self._pens = [Pen(path, face.index, what.side) for path, face in zip(paths, what.faces, strict=True)]

    def plain(self, kanji: str) -> Drawn | None:
        """`kanji` plain in every face; None if a face lacks it or leaves it blank."""
        inks = [pen.ink(kanji) for pen in self._pens]
        there = [ink for ink in inks if ink is not None]
        if len(there) < len(inks):
            return None
        images = np.stack([plain(ink, self._what.side) for ink in there])
        fewest = FEWEST_INK * 255 * (self._what.side / 32) ** 2
        if images.sum(axis=(1, 2), dtype=np.int64).min() < fewest:
            return None
        prints = tuple(hashlib.blake2b(ink.tobytes(), digest_size=16).digest() for ink in there)
        return Drawn(kanji, images, prints)

    def perturbed(self, kanji: str) -> Grey:
        """`kanji`, which every face has, perturbed: uint8 [faces, side, side]."""
        images = []
        for font, pen in enumerate(self._pens):
            ink = pen.ink(kanji)
            assert ink is not None
            rng = np.random.default_rng([self._what.seed, ord(kanji), font])
            images.append(perturbed(ink, rng, Perturbation(), self._what.side))
        return np.stack(images)


def draw(
    what: GlyphSet,
    sources: Sequence[Source],
    processes: int = 1,
    report: Report = lambda stage, done, total: None,
) -> tuple[str, dict[str, Arrays]]:
    """The kanji of a set, and its halves "train" (plain) and "test" (perturbed).

    `processes` changes the time and nothing else. `report` is told the stage, and how many of how many are
    done.

    Raises:
        InputError: the faces have fewer kanji in common than the set wants.
        FontError: two faces are one design.
    """
    half = what.classes // 2
    with _drawing(what, [source.path for source in sources], processes) as in_order:
        chosen = _choose(in_order(Drawer.plain, _candidates(what.seed)), what, report)
        _refuse_twins([drawn.images for drawn in chosen[:COMPARED]], what)
        tested = []
        for images in in_order(Drawer.perturbed, [drawn.kanji for drawn in chosen[half:]]):
            tested.append(images)
            report("perturbing test kanji", len(tested), what.classes - half)
    everything = np.arange(len(what.faces))
    trained = np.flatnonzero([face.role == GALLERY for face in what.faces])
    splits = {
        "train": _arrays([drawn.images for drawn in chosen[:half]], 0, trained),
        "test": _arrays(tested, half, everything),
    }
    return "".join(drawn.kanji for drawn in chosen), splits


def jis_level_1() -> Iterator[str]:
    """The 2,965 kanji of JIS X 0208 rows 16 to 47, in the standard's order."""
    for row in range(16, 48):
        for cell in range(1, 95 if row < 47 else 52):
            yield bytes([0xA0 + row, 0xA0 + cell]).decode("euc_jp")


def _candidates(seed: int) -> list[str]:
    kanji = list(jis_level_1())
    return [kanji[position] for position in np.random.default_rng(seed).permutation(len(kanji))]


def _choose(candidates: Iterable[Drawn | None], what: GlyphSet, report: Report) -> list[Drawn]:
    """The first kanji that every face draws, and draws unlike all kanji before."""
    seen: list[set[bytes]] = [set() for _ in what.faces]
    kept: list[Drawn] = []
    for drawn in candidates:
        if drawn is None:
            continue
        if any(mark in marks for mark, marks in zip(drawn.prints, seen, strict=True)):
            continue  # a face that draws two kanji alike draws a placeholder
        for mark, marks in zip(drawn.prints, seen, strict=True):
            marks.add(mark)
        kept.append(drawn)
        report("drawing kanji", len(kept), what.classes)
        if len(kept) == what.classes:
            return kept
    raise InputError(f"classes must be at most {len(kept)}, the kanji of every face, got {what.classes}")


def _refuse_twins(images: Sequence[Grey], what: GlyphSet) -> None:
    drawn = np.stack(images).astype(np.float32)
    for a, b in combinations(range(len(what.faces)), 2):
        gap = float(np.abs(drawn[:, a] - drawn[:, b]).mean())
        if gap < NEAREST_FACES:
            raise FontError(f"{what.faces[b].family} draws as {what.faces[a].family} does ({gap:.2f})")


def _arrays(images: Sequence[Grey], first_label: int, faces: NDArray[np.intp]) -> Arrays:
    """Rows in the kanji's order, of one kanji in the faces' order."""
    labels = np.arange(first_label, first_label + len(images)).repeat(len(faces))
    return Arrays(
        np.concatenate([drawn[faces] for drawn in images]),
        labels.astype(np.uint16),
        np.tile(faces, len(images)).astype(np.uint16),
    )


class _InOrder(Protocol):
    """`map` of a drawer's method over kanji, with the results in the kanji's order."""

    def __call__(self, method: Callable[[Drawer, str], Result], kanji: Sequence[str]) -> Iterator[Result]: ...


@contextmanager
def _drawing(what: GlyphSet, paths: Sequence[Path], processes: int) -> Iterator[_InOrder]:
    if processes == 1:
        drawer = Drawer(what, paths)

        def in_turn(method: Callable[[Drawer, str], Result], kanji: Sequence[str]) -> Iterator[Result]:
            return (method(drawer, one) for one in kanji)

        yield in_turn
        return
    context = get_context("spawn")  # not forked: torch's threads are in this process
    held, leash = context.Pipe(duplex=False)
    with held, leash:
        pool = ProcessPoolExecutor(processes, context, initializer=_start_worker, initargs=(held,))

        def spread(method: Callable[[Drawer, str], Result], kanji: Sequence[str]) -> Iterator[Result]:
            return pool.map(partial(_in_worker, method, what, tuple(paths)), kanji, chunksize=TASK)

        try:
            yield spread
        except BaseException:
            leash.close()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker(held: Connection) -> None:
    """Ctrl-C is the main process's; when that lets go of the leash, or is killed, this one ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_when_let_go() -> None:
        held.poll(None)
        os._exit(0)

    threading.Thread(target=end_when_let_go, daemon=True).start()


def _in_worker(
    method: Callable[[Drawer, str], Result], what: GlyphSet, paths: tuple[Path, ...], kanji: str
) -> Result:
    return method(_drawer_of(what, paths), kanji)


@lru_cache(maxsize=1)
def _drawer_of(what: GlyphSet, paths: tuple[Path, ...]) -> Drawer:
    return Drawer(what, paths)
