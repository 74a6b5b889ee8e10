"""The checkpoints of a run: whole or not there, the last two kept, a damaged one passed over."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from fastdml.distributed import (
    ShardedCenters,
    full_optimizer_state_dict,
    full_state_dict,
    load_full_optimizer_state_dict,
    load_full_state_dict,
)
from fastdml.training.checkpoint import CheckpointError, load_weights, packed_metadata, sync_directory

FOLDER = "checkpoints"
WEIGHTS, STATE, MANIFEST = "weights.safetensors", "state.pt", "manifest.json"
_KEPT = 2
_UNFINISHED = ".unfinished"
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Parts:
    """What a run consists of.

    Attributes:
        model: the network.
        loss: with what it learns and remembers; its centres may be divided over processes.
        optimiser: of both.
        scaler: of gradients in half precision.
        description: of the network, kept with its weights.
    """

    model: nn.Module
    loss: nn.Module
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    description: Mapping[str, str]


class RunCheckpoints:
    """Those of a run, in ``checkpoints/step-00000100/`` and so on of its directory.

    - weights.safetensors: the network.
    - state.pt: the loss, the optimiser, and where the run stands; read with ``weights_only``.
    - manifest.json: the sha256 of both, by which a damaged file is noticed.

    A checkpoint is written to a folder beside, synced, and renamed; then the oldest go. It holds nothing of
    how many processes wrote it: any number can go on.

    Args:
        run: the directory of the run.
        writes: whether this process writes the files.
        note: told of a checkpoint that is damaged or cannot be written.
    """

    def __init__(self, run: Path, writes: bool, note: Callable[[str], None]) -> None:
        self.folder, self.writes, self.note = run / FOLDER, writes, note
        self._damaged: list[Path] = []

    def save(self, step: int, parts: Parts, progress: Mapping[str, Any]) -> None:
        """Write the checkpoint of ``step``; every process must call it.

        A disk that is full does not end the run: it is noted, and the checkpoints before stay.
        """
        state = {
            "loss": _loss_state(parts.loss),
            "optimiser": _optimiser_state(parts),
            "scaler": parts.scaler.state_dict(),
            "progress": {**progress, "step": step},
        }
        if not self.writes:
            return
        try:
            self._write(step, parts, state)
        except OSError as error:
            self.note(f"no checkpoint at step {step}: {error}; the run goes on, those before are kept")

    def _write(self, step: int, parts: Parts, state: Mapping[str, Any]) -> None:
        weights = {
            name: value.detach().cpu().contiguous() for name, value in parts.model.state_dict().items()
        }
        packed = io.BytesIO()
        torch.save(state, packed)
        contents: dict[str, bytes | memoryview] = {
            WEIGHTS: save(weights, packed_metadata({**parts.description, "step": str(step)})),
            STATE: packed.getbuffer(),
        }
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        contents[MANIFEST] = json.dumps({"step": step, "sha256": sums}, indent=1).encode() + b"\n"
        target = self.folder / f"step-{step:08d}"
        beside = self.folder / f".{target.name}{_UNFINISHED}"
        for left in self.folder.glob(f".step-*{_UNFINISHED}"):  # by a run that was killed meanwhile
            shutil.rmtree(left, ignore_errors=True)
        try:
            beside.mkdir(parents=True)
            for name, content in contents.items():
                with (beside / name).open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            sync_directory(beside)
            shutil.rmtree(target, ignore_errors=True)  # of a run that stood here before
            beside.rename(target)
            sync_directory(self.folder)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        whole = [folder for folder in self._all() if folder == target or folder not in self._damaged]
        for old in {*self._damaged, *whole[:-_KEPT]} - {target}:
            shutil.rmtree(old, ignore_errors=True)
        self._damaged = []

    def newest(self) -> Stored | None:
        """The newest whole checkpoint; None where none was ever written.

        Raises:
            CheckpointError: there are some, and all are damaged.
        """
        found = self._all()
        for folder in reversed(found):
            try:
                return _read(folder)
            except CheckpointError as error:
                self.note(f"{error}; it is passed over")
                self._damaged.append(folder)
        if found:
            raise CheckpointError(
                f"{self.folder} must hold a checkpoint that is whole, but all {len(found)} are damaged"
            )
        return None

    def remove(self) -> None:
        """Delete all, for a run that starts anew."""
        if self.writes:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _all(self) -> list[Path]:
        """Oldest first."""
        if not self.folder.is_dir():
            return []
        named = [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(named, key=lambda path: int(path.name.removeprefix("step-")))


@dataclass(frozen=True)
class Stored:
    """A checkpoint that was read and found whole.

    Attributes:
        folder: where it stands.
        state: the contents of state.pt.
    """

    folder: Path
    state: Mapping[str, Any]

    @property
    def step(self) -> int:
        """How many steps were made."""
        return int(self.state["progress"]["step"])

    @property
    def progress(self) -> Mapping[str, Any]:
        """Where the run stood, as it was saved."""
        found: Mapping[str, Any] = self.state["progress"]
        return found

    def restore(self, parts: Parts) -> None:
        """Set a run to what was saved.

        Raises:
            CheckpointError: it is of another network or loss.
        """
        load_weights(self.folder / WEIGHTS, parts.model)
        try:
            if isinstance(parts.loss, ShardedCenters):
                load_full_state_dict(parts.loss, self.state["loss"])
                load_full_optimizer_state_dict(parts.loss, parts.optimiser, self.state["optimiser"])
            else:
                parts.loss.load_state_dict(self.state["loss"])
                parts.optimiser.load_state_dict(self.state["optimiser"])
            parts.scaler.load_state_dict(self.state["scaler"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(f"{self.folder} does not fit this run: {error}") from error


def _read(folder: Path) -> Stored:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name, expected in manifest["sha256"].items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != expected:
                raise CheckpointError(f"{folder / name} is damaged: its sha256 is not that of {MANIFEST}")
        return Stored(folder, torch.load(folder / STATE, map_location="cpu", weights_only=True))
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{folder} is damaged: {error}") from error


def _loss_state(loss: nn.Module) -> dict[str, Any]:
    return full_state_dict(loss) if isinstance(loss, ShardedCenters) else loss.state_dict()


def _optimiser_state(parts: Parts) -> dict[str, Any]:
    if isinstance(parts.loss, ShardedCenters):
        return full_optimizer_state_dict(parts.loss, parts.optimiser)
    return parts.optimiser.state_dict()
