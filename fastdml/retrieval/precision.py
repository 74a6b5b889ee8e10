"""Matrix products for published numbers: full fp32, whatever the caller's settings are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No TF32, no other reduced fp32 products, no autocast and no gradients inside the block."""
    # Set where the settings end up: their older readers raise once a caller has used the newer ones.
    products = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = [each.fp32_precision for each in products]
    try:
        for each in products:
            each.fp32_precision = "ieee"
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        for each, precision in zip(products, before, strict=True):
            each.fp32_precision = "none"  # as torch.backends says, where that is what it was
            if each.fp32_precision != precision:
                each.fp32_precision = precision
