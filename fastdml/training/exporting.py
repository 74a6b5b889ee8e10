"""A trained network as a file that other programs run: torch.export or ONNX, checked once written."""

from __future__ import annotations

import importlib
import importlib.util
import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastdml.errors import InputError
from fastdml.training.checkpoint import write_atomically

INPUT, OUTPUT = "images", "embeddings"  # their names in an ONNX file
_CHECKED = 3  # inputs that the file is run on: another number than it is traced with
_TOLERANCE = 1e-3


class ExportError(RuntimeError):
    """A network that cannot be exported, or whose file gives other embeddings than it."""


@dataclass(frozen=True)
class Exported:
    """A file that was written and run again.

    Attributes:
        path: where it is.
        size: bytes.
        run_by: what it was run by, such as "onnxruntime".
        difference: greatest absolute difference of an embedding's number from the network's own.
        scale: greatest absolute number of those embeddings.
    """

    path: Path
    size: int
    run_by: str
    difference: float
    scale: float


class Normalised(nn.Module):
    """A network whose embeddings have unit length."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings float32 [N, D] of length 1."""
        return nn.functional.normalize(self.model(images))


def export(model: nn.Module, shape: tuple[int, ...], path: str | Path, normalise: bool = False) -> Exported:
    """Write a network for any number of inputs, read the file again, run it and compare.

    Args:
        model: the network; it is left on the CPU in evaluation mode.
        shape: of one input, (C, H, W) or (F,); float32, images in [0, 1].
        path: ends in .pt2 for torch.export or .onnx for ONNX. A file that is there is replaced only by one
            that passed.
        normalise: whether the embeddings of the file have unit length.

    Raises:
        InputError: the ending is another one, or a package for ONNX is missing.
        ExportError: the network cannot be traced, or the file gives embeddings that differ by more than a
            thousandth of their greatest number.
        OSError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in _FORMATS:
        raise InputError(f"out must end in {' or '.join(_FORMATS)}, got {path.name!r}")
    write, read = _FORMATS[path.suffix]
    model = (Normalised(model) if normalise else model).cpu().eval()
    inputs = torch.rand(_CHECKED, *shape, generator=torch.Generator().manual_seed(0))
    beside = path.with_name(f".unchecked-{path.name}")
    try:
        with _quiet():
            write_atomically(beside, write(model, inputs[:2]))
        with torch.inference_mode():
            expected = model(inputs)
        found, run_by = read(beside, inputs)
        difference, scale = float((found - expected).abs().max()), float(expected.abs().max())
        if not difference <= _TOLERANCE * scale:
            raise ExportError(
                f"{path} was not written: run by {run_by}, embeddings differ by {difference:.1e} from those "
                f"of the network, whose numbers go up to {scale:.1e}"
            )
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return Exported(path, path.stat().st_size, run_by, difference, scale)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch warns of inside itself while it traces."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _write_pt2(model: nn.Module, example: Tensor) -> bytes:
    batch = torch.export.Dim("batch")
    try:
        program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
    except Exception as error:  # tracing runs foreign code
        raise ExportError(f"the network cannot be traced by torch.export: {error}") from error
    packed = io.BytesIO()
    torch.export.save(program, packed)
    return packed.getvalue()


def _run_pt2(path: Path, inputs: Tensor) -> tuple[Tensor, str]:
    with torch.inference_mode(), path.open("rb") as file:
        return torch.export.load(io.BytesIO(file.read())).module()(inputs), "torch.export"


def _write_onnx(model: nn.Module, example: Tensor) -> bytes:
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"an .onnx file needs packages that are not installed ({', '.join(missing)}): "
            "pip install 'fastdml[export]'"
        )
    try:
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    except Exception as error:  # tracing runs foreign code
        raise ExportError(f"the network cannot be traced for ONNX: {error}") from error
    assert program is not None
    return program.model_proto.SerializeToString()


def _run_onnx(path: Path, inputs: Tensor) -> tuple[Tensor, str]:
    """By onnxruntime, or where that is missing by the reference of onnx, which is slow."""
    given: dict[str, Any] = {INPUT: inputs.numpy()}
    if importlib.util.find_spec("onnxruntime") is not None:
        runtime = importlib.import_module("onnxruntime")
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run([OUTPUT], given)[0]), "onnxruntime"
    reference = importlib.import_module("onnx.reference")
    return torch.from_numpy(reference.ReferenceEvaluator(str(path)).run([OUTPUT], given)[0]), "onnx.reference"


_FORMATS = {".pt2": (_write_pt2, _run_pt2), ".onnx": (_write_onnx, _run_onnx)}
