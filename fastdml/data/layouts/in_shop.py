"""In-Shop Clothes Retrieval of DeepFashion: one list with a part for every image."""

from __future__ import annotations

from pathlib import Path

from fastdml.data.dataset import Dataset
from fastdml.data.layouts.annotations import lines_of, whole_number, wrong_line
from fastdml.data.layouts.layout import Layout, Reading
from fastdml.data.layouts.records import Listing, Record
from fastdml.errors import InputError

_LIST = "list_eval_partition.txt"
_LIST_FOLDERS = ("Eval", "Anno", ".")
# The small images, which the published results are of, before the large ones.
_IMAGE_FOLDERS = ("Img/img", "img", "Img/img_highres", "img_highres", "Img")


def recognises(path: Path) -> bool:
    """Whether the list is there, and a folder of images."""
    return _list_of(path) is not None and _images_of(path) is not None


def load(path: Path, reading: Reading) -> Dataset:
    """Train, and a test split whose queries are searched for among its gallery; `domains` is the garment.

    Raises:
        InputError: a line of the list has another form, or a part that does not exist.
    """
    listed, images = _list_of(path), _images_of(path)
    if listed is None or images is None:
        raise InputError(f"{path} must hold {LAYOUT.looked_for}")
    train: list[Record] = []
    test: list[Record] = []
    stated = None
    for number, line in lines_of(listed):
        if number == 1 and line.isdigit():
            stated = whole_number(line, listed, number, "the number of images")
            continue
        if line.startswith("image_name"):
            continue
        fields = line.rsplit(None, 2)
        if len(fields) < 3 or fields[2] not in ("train", "query", "gallery"):
            raise wrong_line(listed, number, "'image_name item_id train|query|gallery'", line)
        name, item, part = fields
        name = name.partition("/")[2] if name.startswith(("img/", "img_highres/")) else name
        garment = name.rpartition("/")[0].rpartition("/")[0]  # WOMEN/Dresses
        record = Record(f"{images}/{name}", item, part != "gallery", part != "query", domain=garment or None)
        (train if part == "train" else test).append(record)
    notes = []
    if stated is not None and stated != len(train) + len(test):
        notes.append(f"{listed.name} says {stated:,} images and lists {len(train) + len(test):,}")
    classes = list(dict.fromkeys(record.label for record in (*train, *test)))
    listing = Listing("in-shop", "in-shop", path, train, test, classes, (1, 10, 20, 30), tuple(notes))
    return listing.to_dataset(reading)


def _list_of(path: Path) -> Path | None:
    return next((path / f / _LIST for f in _LIST_FOLDERS if (path / f / _LIST).is_file()), None)


def _images_of(path: Path) -> str | None:
    return next((folder for folder in _IMAGE_FOLDERS if (path / folder).is_dir()), None)


LAYOUT = Layout(
    "in-shop",
    "In-Shop Clothes Retrieval",
    f"{_LIST} in Eval/ or Anno/, and Img/img/ or Img/img_highres/",
    recognises,
    load,
    signs=(_LIST, "Eval", "img_highres"),
)
