"""The directory of one run and the files in it."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from fastdml.training.checkpoint import write_atomically
from fastdml.training.config import ConfigError

_OWN_FILES = (
    "config.json",
    "log.jsonl",
    "evaluations.jsonl",
    "metrics.json",
    "weights.safetensors",
    "loss.safetensors",
    "report.html",
)
_FAILED_BATCH = "failed_batch.safetensors"


class RunDirectory:
    """runs/<name>/ with everything that a run leaves behind.

    - config.json: the settings.
    - log.jsonl: one line a step, complete up to the last step at any moment.
    - evaluations.jsonl: one line each time Recall@K was measured during training.
    - metrics.json: the results.
    - weights.safetensors: the network.
    - loss.safetensors: what the loss learnt, only where it has parameters.
    - checkpoints/: what an interrupted run goes on from, see `fastdml.training.run_checkpoints`.
    - report.html: all of it for a person.
    - failed_batch.safetensors: only where a non-finite loss stopped the run.
    """

    def __init__(self, path: str | Path, overwrite: bool = False, resume: bool = False) -> None:
        """Create the directory. One with a run raises ConfigError unless ``overwrite`` or ``resume``."""
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"out must be a directory, got the file {self.path}")
        if (self.path / "config.json").exists():
            if not (overwrite or resume):
                raise ConfigError(
                    f"out must be a new run, but {self.path} already holds one (overwrite is off)"
                )
            for name in (_FAILED_BATCH, *(() if resume else _OWN_FILES)):
                (self.path / name).unlink(missing_ok=True)
        self.path.mkdir(parents=True, exist_ok=True)
        self._log: TextIO | None = None

    @staticmethod
    def unused(path: str | Path) -> Path:
        """``path`` itself, or the first of path-2, path-3, ... that holds no run yet."""
        path = Path(path)
        number, candidate = 1, path
        while candidate.exists():
            number += 1
            candidate = path.with_name(f"{path.name}-{number}")
        return candidate

    @property
    def name(self) -> str:
        """The run's name: that of its directory."""
        return self.path.resolve().name

    @property
    def weights(self) -> Path:
        """Path of the weights."""
        return self.path / "weights.safetensors"

    @property
    def loss(self) -> Path:
        """Path of what the loss learnt."""
        return self.path / "loss.safetensors"

    @property
    def report(self) -> Path:
        """Path of the report."""
        return self.path / "report.html"

    @property
    def failed_batch(self) -> Path:
        """Path of the batch whose loss was not finite."""
        return self.path / _FAILED_BATCH

    def __enter__(self) -> RunDirectory:
        self._log = (self.path / "log.jsonl").open("a", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    def keep_until(self, step: int, evaluated: Collection[int]) -> None:
        """Take back what a run that goes on from there makes again.

        Args:
            step: the last one whose line stays.
            evaluated: the steps whose evaluations stay.
        """
        steps = [record for record in read_lines(self.path / "log.jsonl") if record["step"] <= step]
        found = read_lines(self.path / "evaluations.jsonl")
        evaluations = [record for record in found if record["step"] in evaluated]
        for name, kept in (("log.jsonl", steps), ("evaluations.jsonl", evaluations)):
            text = "".join(json.dumps(record) + "\n" for record in kept)
            write_atomically(self.path / name, text.encode())
        if self._log is not None:
            self._log.close()
            self._log = (self.path / "log.jsonl").open("a", encoding="utf-8")

    def log_step(self, record: dict[str, Any]) -> None:
        """Add a line to log.jsonl; it is handed to the system at once, so that a killed run keeps it."""
        if self._log is None:
            raise RuntimeError("log_step works only inside `with RunDirectory(...)`")
        self._log.write(json.dumps(finite(record)) + "\n")
        self._log.flush()

    def log_evaluation(self, record: dict[str, Any]) -> None:
        """Add a line to evaluations.jsonl."""
        with (self.path / "evaluations.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite(record)) + "\n")

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write config.json or metrics.json as a whole."""
        text = json.dumps(finite(content), indent=2, ensure_ascii=False) + "\n"
        write_atomically(self.path / name, text.encode())


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """The records of a .jsonl file, in order, up to a line that was cut off; an absent file has none."""
    path = Path(path)
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


class FollowerRun:
    """The run as processes but the first see it: they write nothing but their part of a failed batch."""

    def __init__(self, path: str | Path, rank: int) -> None:
        self.path, self.rank = Path(path), rank

    @property
    def failed_batch(self) -> Path:
        """Path of this process's part of the batch whose loss was not finite."""
        return self.path / f"failed_batch-{self.rank}.safetensors"

    def __enter__(self) -> FollowerRun:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is open."""

    def keep_until(self, step: int, evaluated: Collection[int]) -> None:
        """The first process does."""

    def log_step(self, record: dict[str, Any]) -> None:
        """The first process does."""

    def log_evaluation(self, record: dict[str, Any]) -> None:
        """The first process does."""

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """The first process does."""


def finite(value: Any) -> Any:
    """JSON knows no NaN: write null instead."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value
