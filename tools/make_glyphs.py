"""Make the built-in glyphs data set: kanji in many typefaces, 32 x 32 grey.

    python tools/make_glyphs.py --out fastdml/data/glyphs

Needs what `fastdml.data.glyph_making` needs. Run twice on the same packages with the same Pillow, it writes
the same bytes. With --check nothing is written: the images are made again and compared with those in --out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from fastdml.data.glyph_making.making import Made, collect, write_files
from fastdml.data.glyph_making.sets import GLYPHS


def check(out: Path, made: Made) -> None:
    for name, arrays in made.splits.items():
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
    made = collect(GLYPHS, options.fonts)
    if options.check:
        check(options.out, made)
        return
    # In place: the folder is the loader's too.
    options.out.mkdir(parents=True, exist_ok=True)
    write_files(made, options.out)
    for name, arrays in made.splits.items():
        size = (options.out / f"{name}.npz").stat().st_size
        print(f"{name}: {len(arrays.images)} images, {size:,} bytes")


if __name__ == "__main__":
    main()
