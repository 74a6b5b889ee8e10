"""Make the built-in glyphs data set: kanji in many typefaces, 32 x 32 grey.

    python tools/make_glyphs.py --out fastdml/data/glyphs

Needs Pillow and fontTools, and dpkg-deb with either apt-get or a folder of packages (--fonts). Run twice on
the same packages with the same Pillow, it writes the same bytes. With --check nothing is written: the images
are made again and compared with those in --out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from glyph_fonts import FACES, GALLERY, QUERY_ONLY, Source, locate
from glyph_notice import notice
from glyph_render import LEVELS, SIDE, Grey, Pen, Perturbation, perturbed, plain
from numpy.typing import NDArray
from PIL import Image, features

SEED = 20240229
CLASSES = 400
FEWEST_INK = 12.0  # fully inked pixels below which a drawing counts as blank
NEAREST_FACES = 15.0  # mean absolute grey difference below which two faces count as the same design


@dataclass(frozen=True)
class Arrays:
    """One half of the data set: images uint8 [N, 32, 32], label and font uint16 [N]."""

    images: Grey
    label: NDArray[np.uint16]
    font: NDArray[np.uint16]


def jis_level_1() -> Iterator[str]:
    """The 2,965 kanji of JIS X 0208 rows 16 to 47, in the standard's order."""
    for row in range(16, 48):
        for cell in range(1, 95 if row < 47 else 52):
            yield bytes([0xA0 + row, 0xA0 + cell]).decode("euc_jp")


def choose(pens: list[Pen], count: int) -> dict[str, list[Image.Image]]:
    """The first `count` kanji, in a seeded order, that every face draws: kanji -> ink by face."""
    candidates = list(jis_level_1())
    order = np.random.default_rng(SEED).permutation(len(candidates))
    seen: list[set[bytes]] = [set() for _ in pens]
    kept: dict[str, list[Image.Image]] = {}
    for position in order:
        kanji = candidates[position]
        inks = [ink for ink in (pen.ink(kanji) for pen in pens) if ink is not None]
        if len(inks) < len(pens) or any(plain(ink).sum() < FEWEST_INK * 255 for ink in inks):
            continue
        prints = [ink.tobytes() for ink in inks]
        if any(mark in marks for mark, marks in zip(prints, seen, strict=True)):
            continue  # a face that draws two kanji alike draws a placeholder
        for mark, marks in zip(prints, seen, strict=True):
            marks.add(mark)
        kept[kanji] = inks
        if len(kept) == count:
            return kept
    raise SystemExit(f"only {len(kept)} kanji are drawn by every face, {count} are wanted")


def refuse_twins(inks: dict[str, list[Image.Image]], sources: list[Source]) -> None:
    """Stop if two faces are one design under two names."""
    drawn = np.stack([[plain(ink).astype(np.float32) for ink in faces] for faces in inks.values()])
    for a in range(len(sources)):
        for b in range(a):
            gap = float(np.abs(drawn[:, a] - drawn[:, b]).mean())
            if gap < NEAREST_FACES:
                raise SystemExit(
                    f"{sources[a].face.family} draws as {sources[b].face.family} does ({gap:.2f})"
                )


def build(inks: dict[str, list[Image.Image]], sources: list[Source]) -> dict[str, Arrays]:
    """Train: first half of the kanji, gallery faces, plain. Test: the other half, all faces, perturbed."""
    half = len(inks) // 2
    train: list[tuple[Grey, int, int]] = []
    test: list[tuple[Grey, int, int]] = []
    for label, (kanji, faces) in enumerate(inks.items()):
        for font, ink in enumerate(faces):
            if label >= half:
                rng = np.random.default_rng([SEED, ord(kanji), font])
                test.append((perturbed(ink, rng, Perturbation()), label, font))
            elif sources[font].face.role == GALLERY:
                train.append((plain(ink), label, font))
    return {"train": _arrays(train), "test": _arrays(test)}


def _arrays(rows: list[tuple[Grey, int, int]]) -> Arrays:
    images, labels, fonts = zip(*rows, strict=True)
    return Arrays(np.stack(images), np.array(labels, dtype=np.uint16), np.array(fonts, dtype=np.uint16))


def table(sources: list[Source], kanji: list[str], splits: dict[str, Arrays]) -> dict[str, Any]:
    """What glyphs.json holds."""
    fonts = [
        {
            "family": s.face.family,
            "file": s.face.file,
            "package": s.face.package,
            "version": s.version,
            "licence": s.licence,
            "copyright": " ".join(s.copyright.split()),
            "sha256": s.sha256,
            "role": s.face.role,
        }
        for s in sources
    ]
    return {
        "format": 1,
        "side": SIDE,
        "levels": LEVELS,
        "seed": SEED,
        "made_with": {"pillow": PIL.__version__, "freetype": features.version("freetype2")},
        "images_sha256": {name: hashlib.sha256(a.images.tobytes()).hexdigest() for name, a in splits.items()},
        "kanji": "".join(kanji),
        "fonts": fonts,
    }


def write(out: Path, sources: list[Source], kanji: list[str], splits: dict[str, Arrays]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name, arrays in splits.items():
        np.savez_compressed(out / f"{name}.npz", images=arrays.images, label=arrays.label, font=arrays.font)
    text = json.dumps(table(sources, kanji, splits), ensure_ascii=False, indent=1)
    (out / "glyphs.json").write_text(text + "\n", encoding="utf-8")
    (out / "NOTICE").write_text(notice(sources), encoding="utf-8")


def check(out: Path, splits: dict[str, Arrays]) -> None:
    for name, arrays in splits.items():
        with np.load(out / f"{name}.npz", allow_pickle=False) as stored:
            for field in ("images", "label", "font"):
                if not np.array_equal(stored[field], getattr(arrays, field)):
                    raise SystemExit(
                        f"{out / name}.npz: {field} is not what these fonts and this Pillow give"
                    )
    print(f"{out} holds what these fonts give")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the built-in glyphs data set.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the data set's files")
    parser.add_argument("--fonts", type=Path, help="folder of .deb files; missing ones are fetched into it")
    parser.add_argument("--check", action="store_true", help="compare with the files in --out, write nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        unpacked = Path(scratch) / "unpacked"
        sources = locate(FACES, (options.fonts or Path(scratch) / "packages").resolve(), unpacked)
        pens = [Pen(source.path, source.face.index) for source in sources]
        inks = choose(pens, CLASSES)
    refuse_twins(inks, sources)
    splits = build(inks, sources)
    if options.check:
        check(options.out, splits)
        return
    write(options.out, sources, list(inks), splits)
    queries = sum(s.face.role == QUERY_ONLY for s in sources)
    print(f"{len(inks)} kanji, {len(sources)} faces ({queries} query-only)")
    for name, arrays in splits.items():
        size = (options.out / f"{name}.npz").stat().st_size
        print(f"{name}: {len(arrays.images)} images, {size:,} bytes")


if __name__ == "__main__":
    main()
