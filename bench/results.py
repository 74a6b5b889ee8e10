"""Results files: rows, and for every row the header of the run that measured it."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

SCHEMA = 1
FOLDER = Path(__file__).resolve().parent / "results"


class Size(NamedTuple):
    """Where a row stands in the tables."""

    samples: int
    width: int
    dtype: str


@dataclass(frozen=True)
class Row:
    """One figure, or why there is none. ``p50`` is None exactly where ``status`` is not "ok"."""

    provider: str
    direction: str
    metric: str
    N: int
    D: int
    dtype: str
    unit: str
    run: str
    p20: float | None = None
    p50: float | None = None
    p80: float | None = None
    rounds: int = 0
    status: str = "ok"

    @property
    def key(self) -> tuple[Any, ...]:
        """What a later run replaces."""
        return (self.metric, self.direction, self.dtype, self.D, self.N, self.provider)

    @property
    def size(self) -> Size:
        return Size(self.N, self.D, self.dtype)


class Results:
    """The rows of one contest on one device."""

    def __init__(self, contest: str, runs: dict[str, dict[str, Any]], rows: Iterable[Row]) -> None:
        self.contest, self.runs = contest, runs
        self._rows = {row.key: row for row in rows}

    @classmethod
    def load(cls, path: Path, contest: str) -> Results:
        """What the file holds; empty where there is none.

        Raises:
            ValueError: not a results file of this contest and schema.
        """
        if not path.exists():
            return cls(contest, {}, [])
        content = json.loads(path.read_text())
        if content.get("schema") != SCHEMA or content.get("contest") != contest:
            raise ValueError(f"{path} must hold contest {contest!r}, schema {SCHEMA}")
        return cls(contest, content["runs"], [Row(**row) for row in content["rows"]])

    @property
    def rows(self) -> list[Row]:
        """Sorted, so that two files can be compared line by line."""
        return [self._rows[key] for key in sorted(self._rows)]

    def merge(self, run: str, header: dict[str, Any], rows: Iterable[Row]) -> None:
        """Takes in a run: its rows replace those of the same key; others stay, with their run's header."""
        self.runs[run] = header
        for row in rows:
            held = self._rows.get(row.key)
            # What a shorter run left out, a longer one may have measured.
            if held is None or held.p50 is None or not row.status.startswith("skipped"):
                self._rows[row.key] = row
        used = {row.run for row in self._rows.values()} | {run}
        self.runs = {name: header for name, header in self.runs.items() if name in used}

    def save(self, path: Path) -> None:
        """Writes all or nothing; a reader never sees half a file."""
        head = json.dumps(
            {"schema": SCHEMA, "contest": self.contest, "runs": self.runs}, indent=1, sort_keys=True
        )
        lines = ",\n".join(f"  {json.dumps(asdict(row))}" for row in self.rows)
        write_whole(path, f'{head[:-2]},\n "rows": [\n{lines}\n ]\n}}\n')

    def to_csv(self) -> str:
        """Every row with its device, commit and versions beside it."""
        columns = ("device", "commit", "dirty", "date", "fastdml", "torch", "triton", "pml", "cuda", "python")
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([field.name for field in fields(Row)] + list(columns))
        for row in self.rows:
            header = self.runs.get(row.run, {})
            writer.writerow([*asdict(row).values(), *(header.get(column) for column in columns)])
        return text.getvalue()

    def find(self, metric: str, direction: str, size: Size) -> dict[str, Row]:
        """The rows of one size, by provider."""
        return {
            row.provider: row
            for row in self._rows.values()
            if (row.metric, row.direction, row.size) == (metric, direction, size)
        }

    def sizes(self, metric: str, direction: str) -> list[Size]:
        """All sizes that have rows of this metric and direction."""
        found = {
            row.size for row in self._rows.values() if (row.metric, row.direction) == (metric, direction)
        }
        return sorted(found, key=lambda size: (size.dtype, size.width, size.samples))


def same_code(run: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the runs of these headers were of one commit, unchanged, on one device."""
    return not other["dirty"] and all(run[key] == other[key] for key in ("commit", "dirty", "device"))


def write_whole(path: Path, text: str) -> None:
    """Writes a text file through a temporary file and a rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
