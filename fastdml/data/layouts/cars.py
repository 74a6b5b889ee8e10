"""Cars196 in the three forms it is found in, divided as metric learning does: classes 1 to 98 train."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fastdml.data.dataset import Dataset
from fastdml.data.layouts.annotations import lines_of, rows_of, whole_number, wrong_line
from fastdml.data.layouts.layout import Layout, Reading
from fastdml.data.layouts.records import Listing, Record
from fastdml.errors import InputError

TRAINING_CLASSES = 98
_LABELLED_TEST = "cars_test_annos_withlabels.mat"  # cars_test_annos.mat has no classes


class _Image(NamedTuple):
    path: str
    class_id: int  # from 1


def recognises(path: Path) -> bool:
    """Whether it is one of the three forms."""
    return _is_original(path) or _is_devkit(path) or _is_csv(path)


def load(path: Path, reading: Reading) -> Dataset:
    """The split of metric learning: all images of a class, whichever folder they are in, are on one side.

    Raises:
        InputError: an annotation is damaged or misses, or SciPy, which reads .mat files, is not installed.
    """
    if _is_original(path):
        names, images = _original(path)
    elif _is_devkit(path):
        names, images = _devkit(path)
    else:
        names, images = _csv(path)
    halves: tuple[list[Record], list[Record]] = ([], [])
    for image in images:
        if not 1 <= image.class_id <= len(names):
            raise InputError(
                f"{path}: the class of {image.path} must lie in [1, {len(names)}], got {image.class_id}"
            )
        halves[image.class_id > TRAINING_CLASSES].append(Record(image.path, names[image.class_id - 1]))
    return Listing("cars", "cars", path, *halves, names, (1, 2, 4, 8)).to_dataset(reading)


def _is_original(path: Path) -> bool:
    return (path / "cars_annos.mat").is_file()


def _is_devkit(path: Path) -> bool:
    return (path / "devkit" / "cars_train_annos.mat").is_file()


def _is_csv(path: Path) -> bool:
    return all((path / name).is_file() for name in ("names.csv", "anno_train.csv", "anno_test.csv"))


def _original(path: Path) -> tuple[list[str], list[_Image]]:
    """cars_annos.mat and car_ims/."""
    stored = _load_mat(path / "cars_annos.mat", ("annotations", "class_names"))
    images = _mat_images(stored["annotations"], "relative_im_path", "")
    return _texts(stored["class_names"]), list(images)


def _devkit(path: Path) -> tuple[list[str], list[_Image]]:
    """devkit/ beside cars_train/ and cars_test/."""
    devkit = path / "devkit"
    test = next((f / _LABELLED_TEST for f in (devkit, path) if (f / _LABELLED_TEST).is_file()), None)
    if test is None:
        raise InputError(
            f"{devkit} must hold {_LABELLED_TEST}: cars_test_annos.mat has no classes, and both halves have "
            "images of the classes that train"
        )
    names = _texts(_load_mat(devkit / "cars_meta.mat", ("class_names",))["class_names"])
    images: list[_Image] = []
    for file, folder in ((devkit / "cars_train_annos.mat", "cars_train/"), (test, "cars_test/")):
        images += _mat_images(_load_mat(file, ("annotations",))["annotations"], "fname", folder)
    return names, images


def _csv(path: Path) -> tuple[list[str], list[_Image]]:
    """names.csv, anno_train.csv, anno_test.csv and folders named by class, "/" written "-"."""
    names = [line.strip('"') for _, line in lines_of(path / "names.csv")]
    folders = ("car_data/car_data", "car_data", ".")
    base = next(f for f in folders if (path / f / "train").is_dir() or f == ".")
    images = []
    for part in ("train", "test"):
        file = path / f"anno_{part}.csv"
        for number, row in rows_of(file):
            if number == 1 and not row[-1].isdigit():
                continue  # some copies have a header
            if len(row) != 6:
                raise wrong_line(file, number, "file, x1, y1, x2, y2, class", ",".join(row))
            class_id = whole_number(row[5], file, number, "class")
            if not 1 <= class_id <= len(names):
                raise wrong_line(file, number, f"of a class from 1 to {len(names)}", ",".join(row))
            folder = names[class_id - 1].replace("/", "-")
            images.append(_Image(f"{base}/{part}/{folder}/{row[0]}", class_id))
    return names, images


def _load_mat(path: Path, variables: tuple[str, ...]) -> dict[str, Any]:
    try:
        scipy_io: Any = importlib.import_module("scipy.io")
    except ImportError as error:
        raise InputError(
            f"{path} is a MATLAB file, which SciPy reads: pip install 'fastdml[images]'"
        ) from error
    try:
        stored: dict[str, Any] = scipy_io.loadmat(path, variable_names=variables, squeeze_me=True)
    except Exception as error:  # of a damaged file SciPy raises nearly anything
        raise InputError(f"{path} must be a MATLAB file: {error}") from error
    absent = [name for name in variables if name not in stored]
    if absent:
        raise InputError(f"{path} must hold {' and '.join(variables)}, got no {' and no '.join(absent)}")
    return stored


def _mat_images(annotations: Any, field: str, folder: str) -> Iterator[_Image]:
    rows = annotations.reshape(-1)  # a struct array of one row is squeezed to none
    absent = [name for name in (field, "class") if name not in (rows.dtype.names or ())]
    if absent:
        raise InputError(f"annotations must have the fields {field} and class, got no {', '.join(absent)}")
    for file, class_id in zip(rows[field], rows["class"], strict=True):
        yield _Image(f"{folder}{file}", int(class_id))


def _texts(cells: Any) -> list[str]:
    return [str(text) for text in cells.reshape(-1)]


LAYOUT = Layout(
    "cars",
    "Cars196",
    "cars_annos.mat; or devkit/cars_train_annos.mat; or names.csv, anno_train.csv and anno_test.csv",
    recognises,
    load,
    signs=("cars_train", "cars_test", "car_ims", "car_data"),
)
