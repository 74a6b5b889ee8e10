"""Rows and points as the centroid kernels multiply them: in the dtype of products, with their squares.

Squared lengths are those of the rounded numbers, so that what is near is near among these, and a distance
loses no digits to the rounding of its parts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastdml.triton_kernels.pair import as_multiplied
from fastdml.triton_kernels.units import squared_lengths


class Compared(NamedTuple):
    """One side of the comparison, scaled."""

    rows: Tensor
    """[N, D], contiguous, in the dtype that products take."""
    squares: Tensor
    """[N], float32: squared lengths of ``rows``; not finite where a row is not."""


def compared(rows: Tensor, product: torch.dtype, scale: Tensor | None) -> Compared:
    """Rows [N, D], float32, times ``scale`` (None for 1), rounded to ``product``."""
    if scale is None:
        made = rows.to(product).contiguous()
    else:
        made = torch.empty(rows.shape, dtype=product, device=rows.device)
        torch.mul(rows, scale, out=made)
    made = as_multiplied(made)
    return Compared(made, squared_lengths(made))


def common_scale(product: torch.dtype, *sides: Tensor) -> Tensor | None:
    """[], float32: a power of two that brings the largest finite number near 2^15; None where not needed.

    float16 alone needs one: it ends at 65504 and loses digits below 2^-14.
    """
    if product != torch.float16:
        return None
    largest = torch.cat([torch.linalg.vector_norm(side, torch.inf, dim=1) for side in sides])
    _, exponent = torch.frexp(largest.nan_to_num(0, 0, 0).amax())
    return torch.exp2((15 - exponent.clamp_min(-100)).float())
