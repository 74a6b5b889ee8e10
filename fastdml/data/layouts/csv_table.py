"""A CSV file that lists images: path and label, and what else is known."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from fastdml.data.dataset import Dataset
from fastdml.data.layouts.annotations import rows_of, whole_number
from fastdml.data.layouts.layout import Layout, Reading
from fastdml.data.layouts.records import Listing, Record, by_name, first_half, named
from fastdml.errors import InputError

REQUIRED = ("path", "label")
COLUMNS = (*REQUIRED, "split", "query", "gallery", "camera", "category")
_TRUE, _FALSE = ("1", "true", "yes"), ("0", "false", "no")


def recognises(path: Path) -> bool:
    """Whether it is a CSV file with the columns path and label, or a folder with one such file."""
    return _table_of(path) is not None


def load(path: Path, reading: Reading) -> Dataset:
    """As its columns say; without a column split the first half of the classes by name trains.

    Raises:
        InputError: a cell is empty that must not be, or holds something else than its column takes.
    """
    file = _table_of(path)
    if file is None:
        raise InputError(f"{path} must be {LAYOUT.looked_for}")
    rows = rows_of(file)
    _, header = next(rows)
    table = _Table(file, [name.lower() for name in header])
    halves: dict[str, list[Record]] = {"train": [], "test": [], "": []}
    for number, row in rows:
        part, record = table.record(number, row)
        halves[part].append(record)
    train, test, undivided = halves.values()
    classes = by_name(record.label for record in (*train, *test, *undivided))
    if undivided:
        trains = first_half(classes)
        train = [record for record in undivided if record.label in trains]
        test = [record for record in undivided if record.label not in trains]
    unknown = [name for name in table.header if name not in COLUMNS]
    notes = [f"{file.name} has columns that nothing reads: {', '.join(unknown)}"] if unknown else []
    counts = Counter(record.path for record in (*train, *test))
    again = [listed for listed, count in counts.items() if count > 1]
    if again:
        notes.append(f"{len(again):,} of the paths are listed more than once: {named(again)}")
    listing = Listing(file.stem, "csv", file.parent, train, test, classes, (1, 2, 4, 8), tuple(notes))
    return listing.to_dataset(reading)


@dataclass(frozen=True)
class _Table:
    file: Path
    header: list[str]

    def record(self, number: int, row: list[str]) -> tuple[str, Record]:
        """The part ("train", "test" or "" where no column says) and the record of a row."""
        if len(row) != len(self.header):
            raise InputError(
                f"{self.file}, line {number}: must have {len(self.header)} cells as the header has, "
                f"got {len(row)}"
            )
        cells = dict(zip(self.header, row, strict=True))
        for name in REQUIRED:
            if not cells[name]:
                raise InputError(f"{self.file}, line {number}: {name} must not be empty")
        part = cells.get("split", "").lower()
        if "split" in cells and part not in ("train", "test"):
            raise InputError(f"{self.file}, line {number}: split must be train or test, got {part!r}")
        camera = cells.get("camera")
        return part, Record(
            path=cells["path"],
            label=cells["label"],
            is_query=self._flag(cells, "query", number),
            is_gallery=self._flag(cells, "gallery", number),
            camera=None if camera is None else whole_number(camera, self.file, number, "camera"),
            domain=cells.get("category") or None,
        )

    def _flag(self, cells: dict[str, str], name: str, number: int) -> bool:
        text = cells.get(name, "").lower()
        if text in _FALSE:
            return False
        if text in _TRUE or not text:
            return True
        accepted = ", ".join((*_TRUE, *_FALSE))
        raise InputError(f"{self.file}, line {number}: {name} must be one of {accepted}, got {text!r}")


def _table_of(path: Path) -> Path | None:
    """The CSV file itself, or the only one with the columns in a folder."""
    candidates = [path] if path.is_file() else sorted(path.glob("*.csv"))
    tables = [file for file in candidates if file.suffix.lower() == ".csv" and _has_columns(file)]
    return tables[0] if len(tables) == 1 else None


def _has_columns(file: Path) -> bool:
    try:
        _, header = next(rows_of(file), (1, []))
    except InputError:
        return False
    return set(REQUIRED) <= {name.lower() for name in header}


LAYOUT = Layout(
    "csv",
    "a CSV file with the columns path and label, and optional ones",
    "a .csv file with the columns path and label",
    recognises,
    load,
    nested=False,
)
