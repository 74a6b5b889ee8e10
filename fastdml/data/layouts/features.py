"""Features that another network has made: an .npz or .safetensors file of columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastdml.data.dataset import Dataset
from fastdml.data.layouts.layout import Layout, Reading
from fastdml.data.split import Split
from fastdml.errors import InputError

ENDINGS = (".npz", ".safetensors")
COLUMNS = ("features", "labels", "split", "query", "gallery", "camera")


def recognises(path: Path) -> bool:
    """Whether it is a file with one of the endings, or a folder with one file named features."""
    return _file_of(path) is not None


def load(path: Path, reading: Reading) -> Dataset:
    """Splits whose `images` are float32 [N, F]; the class names are the file's labels, in their order.

    Raises:
        InputError: the file is damaged, or a column misses or has another shape or type.
    """
    file = _file_of(path)
    if file is None:
        raise InputError(f"{path} must be {LAYOUT.looked_for}")
    columns = _read(file)
    features = _features(columns, file)
    size = len(features)
    values, labels = torch.unique(_whole(columns, "labels", size, file), return_inverse=True)
    in_test = _flags(columns, "split", size, file, default=False)
    if "split" not in columns:
        if len(values) < 2:
            raise InputError(
                f"{file}: labels must have at least two classes to be divided, got {len(values)}"
            )
        in_test = labels >= (len(values) + 1) // 2
    trained = torch.zeros(len(values), dtype=torch.bool)
    trained[labels[~in_test]] = True
    order = torch.cat([trained.nonzero(), (~trained).nonzero()]).flatten()  # training classes first
    numbers = torch.empty_like(order)
    numbers[order] = torch.arange(len(order))
    is_query = _flags(columns, "query", size, file, default=True)
    is_gallery = _flags(columns, "gallery", size, file, default=True)
    cameras = _whole(columns, "camera", size, file) if "camera" in columns else None
    train, test = (
        Split(
            name=f"{file.stem}/{part}",
            images=features[rows],
            labels=numbers[labels[rows]],
            class_names=tuple(str(int(value)) for value in values[order]),
            is_query=is_query[rows],
            is_gallery=is_gallery[rows],
            cameras=None if cameras is None else cameras[rows],
        )
        for part, rows in (("train", ~in_test), ("test", in_test))
    )
    return Dataset(file.stem, "features", train, test, notes=_notes(columns, train, test, file))


def _notes(columns: dict[str, Tensor], train: Split, test: Split, file: Path) -> tuple[str, ...]:
    notes = []
    unknown = sorted(set(columns) - set(COLUMNS))
    if unknown:
        notes.append(f"{file.name} has columns that nothing reads: {', '.join(unknown)}")
    shared = set(train.labels.tolist()) & set(test.labels.tolist())
    if shared:
        notes.append(f"{len(shared):,} of the classes are both in train and in test")
    return tuple(notes)


def _file_of(path: Path) -> Path | None:
    files = [path] if path.is_file() else [path / f"features{ending}" for ending in ENDINGS]
    found = [file for file in files if file.suffix.lower() in ENDINGS and file.is_file()]
    return found[0] if len(found) == 1 else None


def _read(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(file))
        with np.load(file, allow_pickle=False) as stored:
            return {name: torch.from_numpy(stored[name]) for name in stored.files}
    except Exception as error:  # of a damaged file the readers raise nearly anything
        raise InputError(f"{file} must be a whole {file.suffix} file of number columns: {error}") from error


def _features(columns: dict[str, Tensor], file: Path) -> Tensor:
    features = _column(columns, "features", file)
    if features.dim() != 2 or not features.is_floating_point() or not features.numel():
        raise InputError(
            f"{file}: features must be floating point [N, F], got {features.dtype} {list(features.shape)}"
        )
    features = features.to(torch.float32)
    broken = (~features.isfinite().all(1)).nonzero().flatten()
    if len(broken):
        raise InputError(
            f"{file}: features must be finite in float32, got {len(broken):,} rows that are not, "
            f"the first is {int(broken[0])}"
        )
    return features


def _whole(columns: dict[str, Tensor], name: str, size: int, file: Path) -> Tensor:
    column = _column(columns, name, file)
    if tuple(column.shape) != (size,) or column.is_floating_point() or column.is_complex():
        raise InputError(
            f"{file}: {name} must be whole numbers [{size}], got {column.dtype} {list(column.shape)}"
        )
    return column.to(torch.int64)


def _flags(columns: dict[str, Tensor], name: str, size: int, file: Path, default: bool) -> Tensor:
    if name not in columns:
        return torch.full((size,), default)
    column = _whole(columns, name, size, file)
    if bool(((column != 0) & (column != 1)).any()):
        raise InputError(f"{file}: {name} must hold 0 and 1 alone, got {torch.unique(column)[:5].tolist()}")
    return column == 1


def _column(columns: dict[str, Tensor], name: str, file: Path) -> Tensor:
    if name not in columns:
        raise InputError(f"{file} must hold {name}, got {', '.join(sorted(columns)) or 'nothing'}")
    return columns[name]


LAYOUT = Layout(
    "features",
    "features of another network, one file",
    "an .npz or .safetensors file with features and labels",
    recognises,
    load,
    nested=False,
)
