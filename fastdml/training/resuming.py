"""Whether a run can be taken up again with some settings."""

from __future__ import annotations

import json
from pathlib import Path

from fastdml.training.config import ConfigError, TrainConfig

FREE = ("workers", "device", "seconds", "evaluations", "checkpoint_every", "tensorboard")
"""Settings that may be others when a run goes on: the numbers that it learns do not depend on them."""


def check_can_resume(config: TrainConfig, folder: Path) -> None:
    """Raises ConfigError unless a run in ``folder`` can be taken up with these settings; none there can."""
    path = folder / "config.json"
    if not path.exists():
        return
    before = TrainConfig.read(path).to_dict()
    differing = [
        f"{name} must be {before[name]} as in {path}, got {value}"
        for name, value in config.to_dict().items()
        if value != before[name] and name not in FREE
    ]
    if differing:
        raise ConfigError("; ".join(differing))
    metrics = folder / "metrics.json"
    if metrics.exists() and json.loads(metrics.read_text(encoding="utf-8")).get("status") == "complete":
        raise ConfigError(f"resume must be off: the run in {folder} is complete (overwrite starts it anew)")
