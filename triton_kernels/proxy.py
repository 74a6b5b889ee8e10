"""The proxy engine's two operators on Triton, as fastdml/engines/proxy_ops.py describes them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from fastdml.triton_kernels import configs
from fastdml.triton_kernels.pair import DTYPES, HALF_SCALE, as_multiplied, precision_of
from fastdml.triton_kernels.proxy_backward import ProxyGradients, Samples
from fastdml.triton_kernels.proxy_centres import Chunk, pack_centres, unpack_gradients
from fastdml.triton_kernels.proxy_forward import ProxySums
from fastdml.triton_kernels.proxy_spread import add_spread_gradients, spreads


def proxy_forward(
    rows: Tensor, centres: Tensor, labels: Tensor, shares: Tensor | None, per_class: int, columns: bool,
    normalised: bool, scale: float, gamma: float, product: torch.dtype, spread: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Statistics ``others``, ``target``, ``total`` [B] and ``spread`` [C] or [0], and norms [C K]."""
    _refuse(rows, shares, product)
    stored = centres.T if columns else centres
    classes, width = len(stored) // per_class, rows.shape[1]
    norms = torch.empty(len(stored), dtype=torch.float32, device=rows.device)
    spread_of_class = norms.new_empty(classes if spread else 0)
    compared = as_multiplied(rows.to(product).contiguous())
    sums = ProxySums(compared, labels.contiguous(), per_class, scale, gamma, precision_of(compared))
    most = min(classes, configs.proxy_chunk(width, per_class, product))
    places = _multiple(most, sums.tile.columns)
    packed = torch.empty(per_class, places, width, dtype=product, device=rows.device)
    packed[:, most:] = 0  # multiplied with the last tile, and left out of every sum
    for first in range(0, classes, most):
        chunk = Chunk(first, min(most, classes - first), places, places, per_class)
        pack_centres(packed, stored, norms, chunk, normalised, measure=True)
        sums.add(as_multiplied(packed), first, chunk.classes)
        if spread:
            spread_of_class[first : first + chunk.classes] = spreads(stored, norms, chunk)
    # comparisons with NaN are false: sums would pass over it in silence
    poison = (rows * 0).sum(dim=1) + (norms * 0).sum()
    others, target, total = sums.statistics()
    return others + poison, target + poison, total + poison, spread_of_class, norms


def proxy_backward(
    grad_others: Tensor, grad_target: Tensor, grad_total: Tensor, grad_spread: Tensor, rows: Tensor,
    centres: Tensor, labels: Tensor, shares: Tensor | None, others: Tensor, norms: Tensor, per_class: int,
    columns: bool, normalised: bool, scale: float, gamma: float, product: torch.dtype, need_rows: bool,
    need_centres: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of the rows, float32, and of the centres; [0, D] and [0, 0] where not needed."""
    _refuse(rows, shares, product)
    stored = centres.T if columns else centres
    grad_centres = centres.new_empty(centres.shape if need_centres else (0, 0))
    out = grad_centres.T if columns else grad_centres
    grads = torch.stack([grad_others, grad_target, grad_total])
    unscale = None
    if product == torch.float16:
        unscale = _largest_weight(grads, scale, per_class) / HALF_SCALE
        grads, grad_spread = grads / unscale, grad_spread / unscale

    compared = as_multiplied(rows.to(product).contiguous())
    samples = Samples(compared, labels.contiguous(), others.contiguous(), grads)
    width = rows.shape[1]
    most, block = _chunk_and_block(samples.rows, len(norms) // per_class, per_class)
    gradients = ProxyGradients(samples, per_class, scale, gamma, block, need_rows)
    packed = torch.empty(most * per_class, width, dtype=product, device=rows.device)
    of_packed = torch.empty_like(packed, dtype=torch.float32) if need_centres else None
    for chunk in _chunks(len(norms) // per_class, most, block, per_class):
        pack_centres(packed, stored, norms, chunk, normalised, measure=False)
        multiplied = as_multiplied(packed)
        for start in range(0, chunk.centres, block * per_class):
            at = slice(start, min(start + block * per_class, chunk.centres))
            into = None if of_packed is None else of_packed[at]
            gradients.add(multiplied[at], chunk.first + start // per_class, into)
        if of_packed is None:
            continue
        if len(grad_spread):
            here = grad_spread[chunk.first : chunk.first + chunk.classes]
            add_spread_gradients(of_packed, here, stored, norms, chunk)
        unpack_gradients(out, of_packed, unscale, stored, norms, chunk, normalised)
    return gradients.rows if unscale is None else gradients.rows * unscale, grad_centres


def _refuse(rows: Tensor, shares: Tensor | None, product: torch.dtype) -> None:
    if rows.dtype != torch.float32:
        raise TypeError(f"rows must be float32 on triton, got {rows.dtype}")
    if product not in DTYPES:
        raise TypeError(f"product must be float16, bfloat16 or float32 on triton, got {product}")
    if shares is not None:
        raise ValueError(f"shares must be None on triton, got a tensor {list(shares.shape)}")


def _multiple(count: int, step: int) -> int:
    """The least multiple of ``step`` that is no less than ``count``."""
    return (count + step - 1) // step * step


def _chunk_and_block(rows: Tensor, classes: int, per_class: int) -> tuple[int, int]:
    """Classes of a chunk, which is packed at once, and of a block, of which it has a whole number."""
    most = min(classes, configs.proxy_chunk(rows.shape[1], per_class, rows.dtype))
    block = min(most, configs.proxy_block(len(rows), per_class))
    return most // block * block, block


def _chunks(classes: int, most: int, block: int, per_class: int) -> Iterator[Chunk]:
    for first in range(0, classes, most):
        count = min(most, classes - first)
        yield Chunk(first, count, count, block, per_class)


def _largest_weight(grads: Tensor, scale: float, per_class: int) -> Tensor:
    """[]: no weight is larger, for the slope of a softmax of K numbers is at most 1 + log K."""
    others, target, total = grads.abs()
    bound = (others * scale + target + total) * (1 + math.log(per_class))
    return torch.nan_to_num(bound, nan=0.0, posinf=0.0).amax().clamp_min(1e-30)
