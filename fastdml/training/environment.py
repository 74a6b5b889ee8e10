"""The machine and the versions that a run's figures belong to."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import fastdml
from fastdml.backends import BACKENDS, select
from fastdml.backends.registry import asked_backend
from fastdml.errors import BackendError


@dataclass(frozen=True)
class Environment:
    """Versions, processor, threads, device, and which backend computed the loss and why."""

    fastdml: str
    torch: str
    python: str
    system: str
    processor: str
    cores: int
    threads: int
    device: str
    backend: str
    backend_reason: str

    def to_dict(self) -> dict[str, str | int]:
        """For JSON."""
        return asdict(self)


def describe(device: torch.device, backend: str, backend_reason: str) -> Environment:
    """The environment of this process."""
    return Environment(
        fastdml=getattr(fastdml, "__version__", "unknown"),
        torch=torch.__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        processor=processor_name(),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        backend=backend,
        backend_reason=backend_reason,
    )


@torch.no_grad()
def backend_of(loss: nn.Module, embeddings: Tensor, labels: Tensor) -> tuple[str, str]:
    """The backend that computes a loss of such a batch, and why: what was asked for, or the first that can.

    Raises:
        BackendError: the backend that was asked for cannot.
    """
    first = select(embeddings.device.type, embeddings.dtype)
    for name in BACKENDS[BACKENDS.index(first.name) :]:
        try:
            with fastdml.use_backend(name):
                loss(embeddings, labels)
        except BackendError:
            if asked_backend() is not None:
                raise
            continue
        return name, first.reason if name == first.name else f"{first.name} has no kernels for this loss"
    raise BackendError(f"no backend can compute {type(loss).__name__} on {embeddings.device.type}")


def processor_name() -> str:
    """The processor's name, as far as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
