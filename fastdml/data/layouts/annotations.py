"""Text files of annotations, read line by line with errors that name the line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from fastdml.errors import InputError


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not empty with their numbers from 1, without white space at their ends.

    Raises:
        InputError: the file cannot be read, or is no text.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                stripped = line.strip()
                if stripped:
                    yield number, stripped
    except (OSError, UnicodeDecodeError) as error:
        raise _no_text(path, error) from error


def rows_of(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows of a CSV file that are not empty with the number of their line; a byte-order mark is skipped.

    Raises:
        InputError: as `lines_of`, or a quote is never closed.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True, skipinitialspace=True)
            for row in reader:
                if any(cell.strip() for cell in row):
                    yield reader.line_num, [cell.strip() for cell in row]
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num}: must be comma-separated values: {error}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise _no_text(path, error) from error


def whole_number(text: str, path: Path, line: int, name: str) -> int:
    """The number in `text`, or an error that names file, line and field."""
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"{path}, line {line}: {name} must be a whole number, got {text!r}") from error


def looked_up(table: Mapping[str, str], key: str, path: Path, line: int, name: str) -> str:
    """The entry of `key`, or an error that names file, line and field."""
    if key not in table:
        raise InputError(f"{path}, line {line}: {name} {key!r} is not in the table of {name}s")
    return table[key]


def wrong_line(path: Path, line: int, expected: str, got: str) -> InputError:
    """The error of a line that has another form than it should."""
    return InputError(f"{path}, line {line}: must be {expected}, got {got!r}")


def _no_text(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} must be a text file in UTF-8: {error}")
