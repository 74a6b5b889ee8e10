"""What every backend of the pair engine must compute: rules on closenesses, with and without selection."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import fastdml
from fastdml.engines.pair import pair_losses
from fastdml.rules import (
    COSINE,
    EVERYTHING,
    BinomialDeviance,
    Circle,
    Closeness,
    Contrastive,
    GeneralizedLiftedStructure,
    Margin,
    MultiSimilarity,
    NTXent,
    PairRule,
    Selection,
    SupCon,
)
from pair_batches import Batch

EUCLIDEAN = Closeness("euclidean")
SQUARED = Closeness("squared")
DOT = Closeness("inner", normalised=False)
MINED = Selection(True, 0.1, 0.1)


class Case(NamedTuple):
    """A rule as a loss would run it; ``boundary`` is the row that the margin loss reads, in closeness."""

    rule: PairRule
    closeness: Closeness = COSINE
    selection: Selection = EVERYTHING
    boundary: float | None = None


CASES: dict[str, Case] = {
    "multi-similarity": Case(MultiSimilarity()),
    "multi-similarity, mined": Case(MultiSimilarity(), selection=MINED),
    "multi-similarity, tightly mined": Case(MultiSimilarity(), selection=Selection(True, -0.2, -0.2)),
    "multi-similarity, official": Case(
        MultiSimilarity(beta=40), selection=Selection(True, 0.1, 0.1, 1 - 1e-5)
    ),
    "multi-similarity, shifted exponents": Case(MultiSimilarity(60, 130, 0), selection=MINED),
    "contrastive": Case(Contrastive(0, 1, low=0), EUCLIDEAN),
    "contrastive, cosine": Case(Contrastive(0.9, 0.4), COSINE),
    "contrastive, thresholds": Case(Contrastive(0.3, 1.2, low=0.1, high=0.7), SQUARED),
    "contrastive, squared": Case(Contrastive(0, 1.2, squared=True, low=0.03, high=0.7), EUCLIDEAN),
    "contrastive, margins mined": Case(
        Contrastive(0, 1, low=0), EUCLIDEAN, Selection(negative=-0.8, positive=-0.2)
    ),
    "margin": Case(Margin(0.2), EUCLIDEAN, boundary=-0.9),
    "binomial deviance": Case(BinomialDeviance()),
    "binomial deviance, mined": Case(BinomialDeviance(), selection=MINED),
    "generalised lifted": Case(GeneralizedLiftedStructure(), EUCLIDEAN),
    "generalised lifted, squared": Case(GeneralizedLiftedStructure(), SQUARED),
    "supcon": Case(SupCon()),
    "supcon, mined": Case(SupCon(), selection=MINED),
    "nt-xent": Case(NTXent()),
    "nt-xent, mined": Case(NTXent(0.2), selection=MINED),
    "circle": Case(Circle()),
    "circle, mined": Case(Circle(), selection=MINED),
}
"""Rules by what the test is called; the cpu backend also takes ``UNNORMALISED``."""

UNNORMALISED: dict[str, Case] = {
    "contrastive, dot product": Case(Contrastive(3, 1), DOT),
    "binomial deviance, dot product": Case(BinomialDeviance(1, 2, 0.5), DOT),
}

# Distances of 0 or 1 stand at a margin or threshold there: whether such a pair counts is a matter of
# rounding, and a distance of 0 is the root of one. A softmax over one candidate is all cancellation.
AT_A_MARGIN = {
    ("contrastive", "duplicates"),
    ("generalised lifted", "duplicates"),
    ("contrastive", "zero vectors"),
    ("contrastive, thresholds", "zero vectors"),
    ("supcon", "one candidate"),
}


def losses_and_gradients(
    case: Case, batch: Batch, upstream: Tensor, backend: str, own: Tensor | None = None
) -> list[Tensor]:
    """Every loss total of the rule, its counts, and the gradients of their sum weighted by ``upstream``."""
    leaves = [batch.embeddings.detach().clone().requires_grad_()]
    if batch.ref_embeddings is not None:
        leaves.append(batch.ref_embeddings.detach().clone().requires_grad_())
    row = None
    if case.boundary is not None:
        spread = torch.linspace(-0.1, 0.1, len(batch.labels), dtype=torch.float64)
        row = (case.boundary + spread).to(batch.embeddings.device)
    with fastdml.use_backend(backend):
        losses = pair_losses(
            case.rule, leaves[0], batch.labels, *leaves[1:], ref_labels=batch.ref_labels,
            closeness=case.closeness, selection=case.selection, own=own, row=row,
        )  # fmt: skip
        # kinds of losses weigh differently, so that none can stand for another
        weighted = sum(
            (kind + 1) * (loss.total * upstream.to(loss.total.dtype)).sum()
            for kind, loss in enumerate(losses.values())
        )
        assert isinstance(weighted, Tensor)
        gradients = torch.autograd.grad(weighted, leaves)
    found = [loss.total.detach() for loss in losses.values()]
    found += [loss.count.detach() for loss in losses.values() if loss.count is not None]
    return [*found, *gradients]
