"""The built-in data set: 400 kanji in 20 typefaces, 32 x 32 grey; nothing to download.

Kanji 0 to 199 are for training, 200 to 399 for testing, as in CUB-200-2011 the classes do not overlap.
Training images are plain drawings in 16 typefaces. Test images were turned, sheared, scaled, shifted, blurred
and paled with a fixed seed when the files were made, in the same 16 typefaces and 4 brush and cursive ones.
All test images are queries; the gallery holds the 16 typefaces only, so what is searched for in brush script
has to be found in print.

NOTICE, beside this file, names the typefaces' authors and says what their licences ask for;
tools/make_glyphs.py made the files. `load_folder` reads larger sets, which `fastdml data make` makes.
"""

from __future__ import annotations

from pathlib import Path

from fastdml.data.glyphs.reading import Font, SplitName, read_split, read_table
from fastdml.data.split import Split
from fastdml.errors import InputError

__all__ = ["Font", "SplitName", "fonts", "load", "load_folder", "notice"]

_FOLDER = Path(__file__).parent


def load(split: SplitName = "train") -> Split:
    """Read one half of the data set.

    Args:
        split: "train" (3,200 images of 200 classes) or "test" (4,000 images of 200 other classes).

    Returns:
        A `Split` with images uint8 [N, 1, 32, 32], 0 for paper and 255 for ink; labels 0 to 199 in train and
        200 to 399 in test, named by their kanji; `domains` is the typeface, an index into `fonts()`. In train
        every image is query and gallery.

    Raises:
        InputError: `split` is neither name.
    """
    return read_split(_FOLDER, split, f"glyphs/{split}")


def load_folder(path: str | Path, split: SplitName = "train") -> Split:
    """Read one half of a set that `fastdml data make` made.

    Args:
        path: its folder, with glyphs.json, train.npz and test.npz.
        split: "train" (the first half of the kanji, plain) or "test" (the others, perturbed).

    Returns:
        A `Split` like those of `load`, with images uint8 [N, 1, side, side], named after the folder. In
        glyphs-large every test image is query and gallery.

    Raises:
        InputError: `split` is neither name, or the folder is missing, foreign, not whole or damaged: the
            images are compared with the SHA-256 that glyphs.json holds.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"path must be a folder made by `fastdml data make`, got {folder}, which is none")
    return read_split(folder, split, f"{folder.resolve().name}/{split}")


def fonts() -> tuple[Font, ...]:
    """The typefaces, in the order of the `domains` of `load`."""
    return read_table(_FOLDER).fonts


def notice() -> str:
    """The text of NOTICE: authors, licences and what they ask for."""
    return (_FOLDER / "NOTICE").read_text(encoding="utf-8")
