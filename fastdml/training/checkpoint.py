"""Files that are whole or not there: written beside, synced, renamed; weights in safetensors."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from fastdml.errors import InputError

_METADATA = "fastdml"  # the key under which metadata stands in a file, as JSON


class CheckpointError(InputError):
    """A file of weights that cannot be read or does not fit the model."""


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a file so that at any moment the old or the new content is whole, even after a power cut."""
    path = Path(path)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def save_tensors(
    path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write named tensors and string metadata as safetensors, atomically."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(plain, metadata=packed_metadata(metadata)))


def packed_metadata(metadata: dict[str, str] | None) -> dict[str, str] | None:
    """Metadata as a safetensors file holds it.

    One entry, because several would be written in an arbitrary order: equal weights give equal files.
    """
    return {_METADATA: json.dumps(metadata, sort_keys=True)} if metadata else None


def save_weights(path: str | Path, model: nn.Module, metadata: dict[str, str] | None = None) -> None:
    """Write a model's parameters and buffers as safetensors, atomically."""
    save_tensors(path, model.state_dict(), metadata)


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. A missing or damaged file raises CheckpointError."""
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            packed = (file.metadata() or {}).get(_METADATA, "{}")
            return tensors, json.loads(packed)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path} must be a readable safetensors file: {error}") from error


def load_weights(path: str | Path, model: nn.Module) -> dict[str, str]:
    """Load a model's weights from ``save_weights`` and return the metadata; names and shapes must all fit."""
    tensors, metadata = read_tensors(path)
    expected = model.state_dict()
    wrong = [
        name
        for name in sorted(tensors.keys() | expected.keys())
        if name not in tensors or name not in expected or tensors[name].shape != expected[name].shape
    ]
    if wrong:
        raise CheckpointError(f"{path} does not fit the model: {len(wrong)} tensors differ, first {wrong[0]}")
    with torch.no_grad():
        model.load_state_dict(tensors)
    return metadata


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync_directory(directory: Path) -> None:
    """Make what was created, renamed or deleted in a directory last."""
    if os.name != "posix":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
