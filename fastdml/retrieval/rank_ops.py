"""What counts ranks where plain PyTorch need not: an operator in C++ on the CPU, a Triton kernel on a GPU."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
from torch import Tensor

from fastdml.backends import triton
from fastdml.backends.registry import asked_backend, reason_against

_library = torch.library.Library("fastdml", "FRAGMENT")
_library.define(
    "rank_positives_cpu(Tensor queries, Tensor? gallery, Tensor spans, Tensor offsets, Tensor slack, "
    "Tensor? query_cameras, Tensor? gallery_cameras) -> Tensor"
)


@torch.library.register_fake("fastdml::rank_positives_cpu", lib=_library)
def _(
    queries: Tensor,
    gallery: Tensor | None,
    spans: Tensor,
    offsets: Tensor,
    slack: Tensor,
    query_cameras: Tensor | None,
    gallery_cameras: Tensor | None,
) -> Tensor:
    return queries.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int32)


def runs_here(device: torch.device) -> bool:
    """Whether the C++ operator takes tensors of the device now; else blocks of them are counted."""
    return device.type == "cpu" and asked_backend() in (None, "cpu") and reason_against("cpu") is None


def counting_kernel(device: torch.device) -> tuple[Callable[..., None], int] | None:
    """What counts a block of similarities on the device, and for how many thresholds a query at most.

    None where plain PyTorch counts.
    """
    asked = asked_backend()
    if device.type == "cuda":
        runs = asked in (None, "triton")
    else:
        runs = device.type == "cpu" and asked == "triton" and triton.interpreted()
    if not runs or reason_against("triton") is not None:
        return None
    kernels = importlib.import_module("fastdml.triton_kernels.ranks")
    return triton.on_device_of_first(kernels.count_reached), kernels.MOST_THRESHOLDS
