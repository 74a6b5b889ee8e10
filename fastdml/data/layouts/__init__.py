"""Data sets as they lie on disk: recognised, listed, checked against what was published, and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from fastdml.data.dataset import Dataset
from fastdml.data.layouts import (
    cars,
    csv_table,
    cub,
    features,
    folders,
    glyph_folder,
    in_shop,
    market,
    sop,
)
from fastdml.data.layouts.layout import Layout, Reading
from fastdml.errors import InputError

__all__ = ["LAYOUTS", "Layout", "find_layout", "load_dataset"]

# In the order in which they are tried: what holds more of its own first.
_MODULES = (sop, cub, cars, in_shop, market, glyph_folder, features, csv_table, folders)
LAYOUTS: Mapping[str, Layout] = {module.LAYOUT.name: module.LAYOUT for module in _MODULES}
"""All layouts by name, in the order in which they are tried."""

ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz")
_MOST_LOOKED_INTO = 200  # folders of a folder that is none itself


def load_dataset(
    path: Path | str,
    layout: str = "auto",
    size: tuple[int, int] = (224, 224),
    fit: str = "crop",
    on_error: str = "stop",
) -> Dataset:
    """Load a data set; images stay on disk until they are asked for.

    Args:
        path: the folder (or, for "csv" and "features", the file); of the official data sets also the folder
            that holds theirs.
        layout: a name of `LAYOUTS`, or "auto".
        size: (height, width) of the images, pixels. Features and glyphs stay as they are.
        fit: "crop" scales until the shorter side fits and cuts the middle out, "stretch" scales both sides.
        on_error: what happens to images that are listed and absent, or unreadable: "stop" or "skip".

    Raises:
        InputError: there is no such path, no layout or not the one asked for is recognised, its annotations
            are damaged, or an argument is none of these.
    """
    found, root = find_layout(path, layout)
    dataset = found.load(root, Reading(size, fit, on_error))
    return replace(dataset, notes=(*dataset.notes, *_lacking(dataset)))


def _lacking(dataset: Dataset) -> list[str]:
    """What there must be for training and for judging, and is not."""
    test = dataset.test
    notes = [f"{half} has no images" for half in ("train", "test") if not len(getattr(dataset, half))]
    if len(test):
        flags = {"queries": test.is_query, "gallery": test.is_gallery}
        notes += [f"test has no {part}" for part, chosen in flags.items() if not bool(chosen.any())]
    return notes


def find_layout(path: Path | str, layout: str = "auto") -> tuple[Layout, Path]:
    """The layout of `path`, and the folder or file that is laid out so: `path` or a folder in it.

    Raises:
        InputError: as `load_dataset`; or several folders in `path` are data sets.
    """
    if layout != "auto" and layout not in LAYOUTS:
        near = get_close_matches(layout, LAYOUTS)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise InputError(f"layout must be one of auto, {', '.join(LAYOUTS)}, got {layout!r}{hint}")
    start = Path(path).expanduser().absolute()
    if not start.exists():
        raise InputError(f"data must be the path of a data set, {start} does not exist")
    if start.is_file() and start.suffix.lower() in ARCHIVES:
        raise InputError(
            f"{start} is an archive, unpack it first: fastdml data unpack {start.name} --out FOLDER"
        )
    tried = list(LAYOUTS.values()) if layout == "auto" else [LAYOUTS[layout]]
    nested = [one for one in tried if one.nested]
    found = _first(start, nested)
    if found is not None:
        return found, start
    inside = [(one, folder) for folder in _folders(start) if (one := _first(folder, nested)) is not None]
    if len(inside) > 1:
        names = ", ".join(f"{folder.name} ({one.name})" for one, folder in inside)
        raise InputError(f"data must be the path of one data set, {start} holds several: {names}")
    if inside:
        return inside[0]
    incomplete = next((one for one in nested if any((start / sign).exists() for sign in one.signs)), None)
    if incomplete is not None:
        raise InputError(
            f"{start} is an incomplete copy of {incomplete.about} ({incomplete.name}). "
            f"Looked for: {incomplete.looked_for}. {_contents(start)}"
        )
    found = _first(start, [one for one in tried if not one.nested])
    if found is not None:
        return found, start
    looked_for = "; ".join(f"{one.looked_for} ({one.name})" for one in tried)
    raise InputError(f"{start} is no data set that is known. Looked for: {looked_for}. {_contents(start)}")


def _first(path: Path, layouts: list[Layout]) -> Layout | None:
    return next((layout for layout in layouts if layout.recognises(path)), None)


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(entry for entry in path.iterdir() if entry.is_dir())[:_MOST_LOOKED_INTO]


def _contents(path: Path) -> str:
    if path.is_file():
        return f"It is a file of {path.stat().st_size:,} bytes"
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in path.iterdir())
    if not names:
        return "The folder is empty"
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"Found {len(names):,} entries: {shown}"
