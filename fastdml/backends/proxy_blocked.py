"""The proxy engine a block of classes at a time: plain PyTorch in memory linear in samples and centres.

Any device; what runs where there is no kernel. Derivatives are written out, so that nothing of a block is
kept from the forward to the backward.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fastdml.backends.proxy_reference import spread_of_classes
from fastdml.engines import proxy_ops  # noqa: F401  defines the operators
from fastdml.rules.proxy import APART, Centres

CPU_BLOCK, DEVICE_BLOCK = 1 << 19, 1 << 24
"""Similarities of a block: about a cache on a CPU, enough to fill a GPU elsewhere."""
SAMPLES = 4096
"""Samples of a block at most: centres are brought into a block once for all samples up to here."""


class _Problem(NamedTuple):
    rows: Tensor
    centres: Tensor
    labels: Tensor
    shares: Tensor | None
    how: Centres
    scale: float

    def class_blocks(self) -> Iterator[slice]:
        count = self.centres.shape[1 if self.how.columns else 0] // self.how.per_class
        budget = CPU_BLOCK if self.rows.is_cpu else DEVICE_BLOCK
        samples = max(1, min(SAMPLES, len(self.rows)))
        length = max(1, budget // (samples * self.how.per_class))
        for start in range(0, count, length):
            yield slice(start, min(start + length, count))

    def sample_blocks(self) -> Iterator[slice]:
        for start in range(0, len(self.rows), SAMPLES):
            yield slice(start, min(start + SAMPLES, len(self.rows)))

    def centres_of(self, classes: slice) -> slice:
        return slice(classes.start * self.how.per_class, classes.stop * self.how.per_class)

    def stored(self, classes: slice) -> Tensor:
        """[n K, D] centres of the classes, in the dtype of the rows."""
        at = self.centres_of(classes)
        found = self.centres[:, at].T if self.how.columns else self.centres[at]
        return found.to(self.rows.dtype)

    def own(self, samples: slice, classes: slice) -> Tensor:
        """Bool mask [b, n] of the classes of the samples."""
        columns = torch.arange(classes.start, classes.stop, device=self.labels.device)
        return self.labels[samples, None] == columns[None, :]

    def similarities(self, samples: slice, units: Tensor) -> Tensor:
        """[b, n, K]."""
        return (self.rows[samples] @ units.T).unflatten(1, (-1, self.how.per_class))


def _forward(
    rows: Tensor, centres: Tensor, labels: Tensor, shares: Tensor | None, per_class: int, columns: bool,
    normalised: bool, scale: float, gamma: float, product: torch.dtype, spread: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    problem = _Problem(rows, centres, labels, shares, Centres(per_class, gamma, columns, normalised), scale)
    others = rows.new_full((len(rows),), -math.inf)
    target, total = torch.zeros_like(others), torch.zeros_like(others)
    norms = rows.new_ones(centres.shape[1 if columns else 0])
    spreads = rows.new_zeros(len(norms) // per_class if spread else 0)
    with torch.autocast(rows.device.type, enabled=False):
        for classes in problem.class_blocks():
            stored = problem.stored(classes)
            at = problem.centres_of(classes)
            if normalised:
                norms[at] = stored.norm(dim=1)
            units = _units(stored, norms[at])
            if spread:
                spreads[classes] = spread_of_classes(units.unflatten(0, (-1, per_class)))
            for samples in problem.sample_blocks():
                pooled = problem.how.pooled(problem.similarities(samples, units))
                own = problem.own(samples, classes)
                logits = (scale * pooled).masked_fill(own, -math.inf)
                others[samples] = torch.logaddexp(others[samples], logits.logsumexp(dim=1))
                target[samples] += torch.where(own, pooled, 0).sum(dim=1)
                total[samples] += (pooled if shares is None else pooled * shares[samples, classes]).sum(dim=1)
    poison = (rows * 0).sum(dim=1) + ((norms if normalised else centres.to(rows.dtype)) * 0).sum()
    return others + poison, target + poison, total + poison, spreads, norms


def _units(stored: Tensor, norms: Tensor) -> Tensor:
    return stored / norms.clamp_min(1e-12)[:, None]


def _backward(
    grad_others: Tensor, grad_target: Tensor, grad_total: Tensor, grad_spread: Tensor, rows: Tensor,
    centres: Tensor, labels: Tensor, shares: Tensor | None, others: Tensor, norms: Tensor, per_class: int,
    columns: bool, normalised: bool, scale: float, gamma: float, product: torch.dtype, need_rows: bool,
    need_centres: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    problem = _Problem(rows, centres, labels, shares, Centres(per_class, gamma, columns, normalised), scale)
    grad_rows = rows.new_zeros(rows.shape) if need_rows else rows.new_empty(0, rows.shape[1])
    grad_centres = centres.new_empty(centres.shape) if need_centres else centres.new_empty(0, 0)
    with torch.autocast(rows.device.type, enabled=False):
        for classes in problem.class_blocks():
            at = problem.centres_of(classes)
            units = _units(problem.stored(classes), norms[at])
            grads = torch.zeros_like(units)
            for samples in problem.sample_blocks():
                similarities = problem.similarities(samples, units)
                pooled = problem.how.pooled(similarities)
                own = problem.own(samples, classes)
                push = scale * grad_others[samples, None]
                push = push * torch.exp(scale * pooled - others[samples, None])
                weights = torch.where(own, grad_target[samples, None], push)
                share = 1 if shares is None else shares[samples, classes]
                weights = weights + grad_total[samples, None] * share
                by_centre = weights[..., None] * _slopes(problem.how, similarities, pooled)
                by_centre = by_centre.flatten(1)
                if need_rows:
                    grad_rows[samples] += by_centre @ units
                if need_centres:
                    grads += by_centre.T @ rows[samples]
            if not need_centres:
                continue
            if len(grad_spread):
                grads += _spread_gradients(units, grad_spread[classes], per_class)
            if normalised:
                grads = _through_normalisation(grads, units, norms[at])
            (grad_centres.T if columns else grad_centres)[at] = grads.to(centres.dtype)
    return grad_rows, grad_centres


def _slopes(how: Centres, similarities: Tensor, pooled: Tensor) -> Tensor:
    """[b, n, K], the derivative of the similarity of a class by those of its centres."""
    if how.per_class == 1:
        return torch.ones_like(similarities)
    if not how.soft:
        first = similarities.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(similarities).scatter(-1, first, 1.0)
    shares = torch.softmax(similarities / how.gamma, dim=-1)
    return shares * (1 + (similarities - pooled[..., None]) / how.gamma)


def _spread_gradients(units: Tensor, grads: Tensor, per_class: int) -> Tensor:
    """[n K, D]: of unit centres, from the gradients [n] of the spread of their classes."""
    centres = units.unflatten(0, (-1, per_class))
    gram = centres @ centres.transpose(1, 2)
    weights = -grads[:, None, None] / (2 + APART - 2 * gram).sqrt()
    weights.diagonal(dim1=1, dim2=2).zero_()
    return (weights @ centres).flatten(0, 1)


def _through_normalisation(grads: Tensor, units: Tensor, norms: Tensor) -> Tensor:
    """Gradients of the centres as stored, from those of the unit centres."""
    along = (grads * units).sum(dim=1, keepdim=True)
    along = torch.where(norms[:, None] < 1e-12, 0, along)
    return (grads - along * units) / norms.clamp_min(1e-12)[:, None]


_library = torch.library.Library("fastdml", "IMPL")
_library.impl("proxy_forward_blocked", _forward, "CompositeExplicitAutograd")
_library.impl("proxy_backward_blocked", _backward, "CompositeExplicitAutograd")
