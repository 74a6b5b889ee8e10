"""Whether a run can be taken up again with some settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastdml.training.config import ConfigError, TrainConfig
from fastdml.training.run import finite
from fastdml.training.run_checkpoints import FOLDER

FREE = ("workers", "device", "seconds", "evaluations", "checkpoint_every", "tensorboard", "on_unreadable")
"""Settings that may be others when a run goes on: the numbers that it learns do not depend on them."""


def check_can_resume(config: TrainConfig, folder: Path) -> None:
    """Raises ConfigError unless a run in ``folder`` can be taken up with these settings; none there can."""
    path = folder / "config.json"
    if not path.exists():
        if (folder / FOLDER).exists():
            raise ConfigError(f"{path} must be there to go on with what is in {folder / FOLDER}")
        return
    before = _as_written(TrainConfig.read(path))
    differing = [
        f"{name} must be {before[name]} as in {path}, got {value}"
        for name, value in _as_written(config).items()
        if value != before[name] and name not in FREE
    ]
    if differing:
        raise ConfigError("; ".join(differing))
    if _status(folder / "metrics.json") == "complete":
        raise ConfigError(f"resume must be off: the run in {folder} is complete (overwrite starts it anew)")


def _as_written(config: TrainConfig) -> dict[str, Any]:
    """Settings as they are read again: JSON has no tuples, and what is not finite is null there."""
    found: dict[str, Any] = json.loads(json.dumps(finite(config.to_dict())))
    return found


def _status(metrics: Path) -> Any:
    try:
        return json.loads(metrics.read_text(encoding="utf-8"))["status"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a run that did not get so far
