"""The dtype in which sums over pairs are kept."""

from __future__ import annotations

import torch


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64 input, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32
