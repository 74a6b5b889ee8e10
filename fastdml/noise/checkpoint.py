"""The file from which an interrupted teacher goes on."""

from __future__ import annotations

import hashlib
import io
import pickle
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastdml.errors import InputError
from fastdml.noise.files import write_whole

Weights = dict[str, Tensor]


@dataclass
class TeacherProgress:
    """Where a teacher is.

    Attributes:
        rows: int64, the samples of this round.
        round: from 0, that on all samples.
        epoch: how many of this round are done.
        trusted_by_round: of the rounds before.
        before: the teacher's weights when this round began; None in the first.
    """

    rows: Tensor
    round: int = 0
    epoch: int = 0
    trusted_by_round: list[int] = field(default_factory=list)
    before: Weights | None = None


def fingerprint(labels: Tensor) -> str:
    """SHA-256 of labels int64 [N], hexadecimal."""
    return hashlib.sha256(array("q", labels.tolist()).tobytes()).hexdigest()


def save_progress(
    path: Path,
    progress: TeacherProgress,
    teacher: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: Mapping[str, Any],
) -> None:
    """Write all that going on needs; ``settings`` are what `read_progress` compares."""
    buffer = io.BytesIO()
    content = {
        "settings": dict(settings),
        "progress": vars(progress),
        "teacher": teacher.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(content, buffer)
    write_whole(path, buffer.getvalue())


def read_progress(
    path: Path,
    teacher: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: Mapping[str, Any],
) -> TeacherProgress:
    """Put the teacher and the optimiser of a file in place and say where they are.

    Raises:
        InputError: the file cannot be read, other settings made it, or it holds another network.
    """
    device = next(teacher.parameters()).device
    try:
        stored = torch.load(path, map_location=device, weights_only=True)
        made_with, progress = stored["settings"], stored["progress"]
        weights, state = stored["teacher"], stored["optimizer"]
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise InputError(f"checkpoint must be a readable teacher, got {path}: {error}") from error
    wrong = [
        f"{name} must be {made_with.get(name)} as in {path}, got {value}"
        for name, value in settings.items()
        if made_with.get(name) != value
    ]
    if wrong:
        raise InputError("; ".join(wrong))
    try:
        teacher.load_state_dict(weights)
        optimizer.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"teacher does not fit the checkpoint {path}: {error}") from error
    return TeacherProgress(**{**progress, "rows": progress["rows"].cpu()})
