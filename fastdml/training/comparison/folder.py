"""The folder of a comparison: what lies in it, and whether it may go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastdml.training.checkpoint import write_atomically
from fastdml.training.comparison.cells import Cell
from fastdml.training.comparison.protocol import differences
from fastdml.training.config import ConfigError

RESULTS = (
    "comparison.json",
    "comparison.md",
    "comparison-light.svg",
    "comparison-dark.svg",
    "index.html",
)


class ComparisonFolder:
    """runs/<comparison>/ with the protocol, the cells and what is made of them.

    - protocol.json: settings, versions and machine.
    - cells/<loss>-<seed>.json: one finished or failed cell each, whole or not there.
    - logs/<loss>-<seed>/: log.jsonl, one line a step; the batch of a loss that was not finite.
    - comparison.json, comparison.md, comparison-light.svg, comparison-dark.svg, index.html: the results.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"out must be a directory, got the file {self.path}")

    def start(self, header: Mapping[str, Any], overwrite: bool = False) -> None:
        """Make the folder ready for cells under a protocol: a new one, or the one that is there.

        Args:
            header: as `Protocol.header` gives it.
            overwrite: whether a comparison that is there is removed first.

        Raises:
            ConfigError: a comparison under another protocol is there; nothing is changed then.
        """
        path = self.path / "protocol.json"
        if path.exists() and overwrite:
            self._remove()
        if path.exists():
            differing = differences(self.header(), header)
            if differing:
                raise ConfigError(
                    f"out must be a new folder or a comparison under the same protocol; in {self.path} "
                    f"{'; '.join(differing)} (overwrite starts anew)"
                )
            return
        (self.path / "cells").mkdir(parents=True, exist_ok=True)
        self.write("protocol.json", _json(header))

    def header(self) -> dict[str, Any]:
        """What protocol.json holds."""
        return _read(self.path / "protocol.json")

    def cells(self) -> list[Cell]:
        """All finished and failed cells, by loss and seed."""
        found = []
        for path in (self.path / "cells").glob("*.json"):
            try:
                found.append(Cell.from_dict(_read(path)))
            except ConfigError as error:
                raise ConfigError(f"{path}: {error}") from error
        return sorted(found, key=lambda cell: (cell.loss, cell.seed))

    def keep(self, cell: Cell) -> None:
        """Write a cell that is done."""
        self.write(f"cells/{cell.name}.json", _json(cell.to_dict()))

    def log(self, loss: str, seed: int) -> Path:
        """Where the training of a cell leaves its log."""
        return self.path / "logs" / f"{loss}-{seed}"

    def write(self, name: str, text: str) -> None:
        """Write one of the folder's files as a whole."""
        write_atomically(self.path / name, text.encode())

    def _remove(self) -> None:
        (
            self.path / "protocol.json"
        ).unlink()  # first: what is left of an interrupted removal is no comparison
        for name in RESULTS:
            (self.path / name).unlink(missing_ok=True)
        for name in ("cells", "logs"):
            shutil.rmtree(self.path / name, ignore_errors=True)


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} must be a file of a comparison: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content
