"""CUB-200-2011, divided as metric learning does: classes 1 to 100 train, 101 to 200 test."""

from __future__ import annotations

from pathlib import Path

from fastdml.data.dataset import Dataset
from fastdml.data.layouts.annotations import lines_of, looked_up, whole_number, wrong_line
from fastdml.data.layouts.layout import Layout, Reading
from fastdml.data.layouts.records import Listing, Record

TRAINING_CLASSES = 100


def recognises(path: Path) -> bool:
    """Whether the lists of images and classes are there, and the folder of images."""
    lists = ("images.txt", "image_class_labels.txt")
    return all((path / name).is_file() for name in lists) and (path / "images").is_dir()


def load(path: Path, reading: Reading) -> Dataset:
    """The split of metric learning; not train_test_split.txt, which divides every class."""
    class_ids = _table(path / "image_class_labels.txt")
    halves: tuple[list[Record], list[Record]] = ([], [])
    names: dict[int, str] = {}
    listed = path / "images.txt"
    for number, line in lines_of(listed):
        image, file = _pair(line, listed, number)
        class_id = whole_number(looked_up(class_ids, image, listed, number, "image"), listed, number, "class")
        name = names.setdefault(class_id, file.partition("/")[0])
        halves[class_id > TRAINING_CLASSES].append(Record(f"images/{file}", name))
    order = [names[class_id] for class_id in sorted(names)]
    return Listing("cub", "cub", path, *halves, order, (1, 2, 4, 8)).to_dataset(reading)


def _table(path: Path) -> dict[str, str]:
    return dict(_pair(line, path, number) for number, line in lines_of(path))


def _pair(line: str, path: Path, number: int) -> tuple[str, str]:
    key, _, value = line.partition(" ")
    if not value:
        raise wrong_line(path, number, "a number, a space and a value", line)
    return key, value.strip()


LAYOUT = Layout(
    "cub",
    "CUB-200-2011, birds",
    "images.txt, image_class_labels.txt and images/",
    recognises,
    load,
    signs=("image_class_labels.txt", "train_test_split.txt"),
)
