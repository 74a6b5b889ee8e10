"""Tiny trees of every layout, with real small images, and what must hold of the data sets read from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fastdml.data import Split
from fastdml.data.dataset import Dataset
from fastdml.data.images import ImageFiles

COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30), (30, 200, 200), (200, 30, 200))
CAR_NAMES = tuple("Ram C/V Cargo Van 2012" if i == 99 else f"Maker Model {i} 2012" for i in range(1, 197))


def colour(number: int) -> tuple[int, int, int]:
    """A colour for a class."""
    return COLOURS[number % len(COLOURS)]


def write_image(
    path: Path, rgb: tuple[int, int, int] = (200, 30, 30), mode: str = "RGB", **save: Any
) -> Path:
    """A plain 12 x 16 picture in a colour; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (16, 12), rgb)
    formats = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".tif": "TIFF"}
    image = image.quantize(8) if mode == "P" else image.convert(mode)
    image.save(path, formats[path.suffix.lower()], **save)
    return path


def write_lines(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_sop(root: Path) -> None:
    """Two training classes of two images and two test classes of three; upper-case endings."""
    header = "image_id class_id super_class_id path"
    number = 0
    for part, classes, count in (("train", (1, 2), 2), ("test", (11319, 11320), 3)):
        lines = [header]
        for class_id in classes:
            category = ("bicycle", "toaster")[class_id % 2]
            for shot in range(count):
                number += 1
                path = f"{category}_final/1110{class_id}_{shot}.JPG"
                write_image(root / path, colour(class_id))
                lines.append(f"{number} {class_id} {1 + class_id % 2} {path}")
        write_lines(root / f"Ebay_{part}.txt", *lines)


def write_cub(root: Path, classes: Sequence[int] = (1, 100, 101, 200), count: int = 2) -> None:
    """A class 1 of grey pictures; train_test_split.txt divides every class, which nothing must follow."""
    images, labels, parts = [], [], []
    for class_id in classes:
        for shot in range(count):
            number = len(images) + 1
            file = f"{class_id:03}.Some_Bird_{class_id}/Some_Bird_{shot:04}_{number}.jpg"
            write_image(root / "images" / file, colour(class_id), "L" if class_id == 1 else "RGB")
            images.append(f"{number} {file}")
            labels.append(f"{number} {class_id}")
            parts.append(f"{number} {shot % 2}")
    write_lines(root / "images.txt", *images)
    write_lines(root / "image_class_labels.txt", *labels)
    write_lines(root / "train_test_split.txt", *parts)
    write_lines(root / "classes.txt", *(f"{i} {i:03}.Some_Bird_{i}" for i in classes))


# file number -> class, test flag; classes lie on both sides of the official division into folders
CARS: Mapping[int, tuple[int, int]] = {1: (99, 0), 2: (1, 1), 3: (98, 0), 4: (1, 0), 5: (196, 1), 6: (99, 1)}


def write_cars_original(root: Path) -> None:
    from scipy.io import savemat

    rows = []
    for number, (class_id, test) in CARS.items():
        path = f"car_ims/{number:06}.jpg"
        write_image(root / path, colour(class_id))
        rows.append((path, 1, 2, 9, 8, class_id, test))
    names = ("relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test")
    savemat(root / "cars_annos.mat", {"annotations": _structs(names, rows), "class_names": _cells(CAR_NAMES)})


def write_cars_devkit(root: Path, labelled_in: str = "devkit") -> None:
    from scipy.io import savemat

    names = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    (root / "devkit").mkdir(parents=True, exist_ok=True)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": _cells(CAR_NAMES)})
    for flag, folder in enumerate(("cars_train", "cars_test")):
        rows = []
        for class_id, test in CARS.values():
            if test == flag:
                file = f"{len(rows) + 1:05}.jpg"
                write_image(root / folder / file, colour(class_id))
                rows.append((1, 2, 9, 8, class_id, file))
        file = "devkit/cars_train_annos.mat" if not flag else f"{labelled_in}/cars_test_annos_withlabels.mat"
        savemat(root / file, {"annotations": _structs(names, rows)})


def write_cars_csv(root: Path) -> None:
    write_lines(root / "names.csv", *CAR_NAMES)
    for flag, part in enumerate(("train", "test")):
        lines = []
        for class_id, test in CARS.values():
            if test == flag:
                file = f"{len(lines) + 1:05}.jpg"
                folder = CAR_NAMES[class_id - 1].replace("/", "-")
                write_image(root / "car_data/car_data" / part / folder / file, colour(class_id))
                lines.append(f"{file},1,2,9,8,{class_id}")
        write_lines(root / f"anno_{part}.csv", *lines)


def write_in_shop(root: Path, lists: str = "Eval", images: str = "Img/img") -> None:
    """Two training items, one item with a query and two gallery images; columns padded with spaces."""
    rows = [
        ("img/WOMEN/Dresses/id_00000001/02_1_front.jpg", "id_00000001", "train"),
        ("img/WOMEN/Dresses/id_00000001/02_2_side.jpg", "id_00000001", "train"),
        ("img/MEN/Denim/id_00000002/01_1_front.jpg", "id_00000002", "train"),
        ("img/WOMEN/Tees_Tanks/id_00000003/01_1_front.jpg", "id_00000003", "query"),
        ("img/WOMEN/Tees_Tanks/id_00000003/01_2_side.jpg", "id_00000003", "gallery"),
        ("img/WOMEN/Tees_Tanks/id_00000003/02_3_back.jpg", "id_00000003", "gallery"),
    ]
    for number, (path, _, _) in enumerate(rows):
        write_image(root / images / path.removeprefix("img/"), colour(number))
    lines = [f"{path:<72} {item:<12} {part:<10}" for path, item, part in rows]
    head = ("6", f"{'image_name':<72} {'item_id':<12} evaluation_status")
    write_lines(root / lists / "list_eval_partition.txt", *head, *lines)


def write_market(root: Path) -> None:
    """Two training people, one searched for, junk, distractors, and the file that Windows leaves."""
    names = {
        "bounding_box_train": ("0002_c1s1_000451_03", "0002_c2s1_000301_01", "0007_c3s3_077419_03"),
        "query": ("0003_c1s1_000901_00",),
        "bounding_box_test": (
            "-1_c1s1_000401_03",
            "0000_c2s1_000151_01",
            "0000_c6s3_000151_02",
            "0003_c1s1_000951_02",
            "0003_c4s6_015641_01",
        ),
    }
    for folder, files in names.items():
        for number, name in enumerate(files):
            write_image(root / folder / f"{name}.jpg", colour(number))
        (root / folder / "Thumbs.db").write_bytes(b"not a picture")


def write_folders(root: Path, classes: Sequence[str] = ("ant", "bee hive", "cat"), count: int = 2) -> None:
    for number, name in enumerate(classes):
        for shot in range(count):
            write_image(root / name / f"shot {shot}.{('jpg', 'JPG')[shot % 2]}", colour(number))
    write_lines(root / classes[0] / "notes.txt", "not a picture")


def _structs(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    """A MATLAB struct array [1, N]."""
    made = np.zeros((1, len(rows)), dtype=[(name, object) for name in names])
    for place, row in enumerate(rows):
        made[0, place] = tuple(row)
    return made


def _cells(texts: Sequence[str]) -> Any:
    """A MATLAB cell array [1, N] of text."""
    made = np.empty((1, len(texts)), dtype=object)
    made[0, :] = texts
    return made


WRITERS: dict[str, Callable[[Path], None]] = {
    "sop": write_sop,
    "cub": write_cub,
    "cars": write_cars_original,
    "in-shop": write_in_shop,
    "market": write_market,
    "folders": write_folders,
}


def tree(folder: Path, layout: str) -> Path:
    root = folder / f"a {layout} tree"
    root.mkdir(parents=True)
    WRITERS[layout](root)
    return root


def rows(split: Split, root: Path) -> list[tuple[str, int]]:
    """(path below root, label) of every image."""
    assert isinstance(split.images, ImageFiles)
    paths = [Path(path).relative_to(root).as_posix() for path in split.images.paths]
    return list(zip(paths, split.labels.tolist(), strict=True))


def names(split: Split) -> list[str]:
    """The class of every image by its name."""
    return [split.class_names[label] for label in split.labels.tolist()]


def assert_well_formed(dataset: Dataset) -> None:
    """Training labels count from 0 without gaps, those of unseen classes go on; every image can be read."""
    trained = torch.unique(dataset.train.labels).tolist()
    tested = torch.unique(dataset.test.labels).tolist()
    assert trained == list(range(len(trained)))
    assert tested == list(range(len(trained), len(trained) + len(tested)))
    assert dataset.train.class_names == dataset.test.class_names
    assert len(dataset.train.class_names) == len(trained) + len(tested)
    assert bool(dataset.train.is_query.all())
    assert bool(dataset.train.is_gallery.all())
    for split in (dataset.train, dataset.test):
        assert split.batch(torch.arange(len(split))).shape == (len(split), 3, 6, 8)
