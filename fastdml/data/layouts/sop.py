"""Stanford Online Products: two lists of images, and twelve folders of super-classes."""

from __future__ import annotations

from pathlib import Path

from fastdml.data.dataset import Dataset
from fastdml.data.layouts.annotations import lines_of, wrong_line
from fastdml.data.layouts.layout import Layout, Reading
from fastdml.data.layouts.records import Listing, Record

_LISTS = ("Ebay_train.txt", "Ebay_test.txt")
_COLUMNS = "image_id class_id super_class_id path"


def recognises(path: Path) -> bool:
    """Whether both lists are there."""
    return all((path / name).is_file() for name in _LISTS)


def load(path: Path, reading: Reading) -> Dataset:
    """Both halves as they were published; `domains` is the super-class, "bicycle" to "toaster"."""
    train, test = (_records(path / name) for name in _LISTS)
    classes = list(dict.fromkeys(record.label for record in (*train, *test)))
    return Listing("sop", "sop", path, train, test, classes, (1, 10, 100, 1000)).to_dataset(reading)


def _records(path: Path) -> list[Record]:
    records = []
    for number, line in lines_of(path):
        if number == 1 and line.startswith("image_id"):
            continue
        fields = line.split(None, 3)
        if len(fields) < 4:
            raise wrong_line(path, number, f"'{_COLUMNS}'", line)
        category = fields[3].partition("/")[0].removesuffix("_final")
        records.append(Record(fields[3], fields[1], domain=category))
    return records


LAYOUT = Layout(
    "sop",
    "Stanford Online Products",
    " and ".join(_LISTS),
    recognises,
    load,
    signs=(*_LISTS, "bicycle_final", "toaster_final"),
)
