"""What docs/pair-weights.md says that a push depends on, by moving pairs and looking whether it changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fastdml import gpw, losses, miners

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pair-weights.md"
LOSSES = {
    "Contrastive": losses.ContrastiveLoss,
    "Binomial deviance": losses.BinomialDevianceLoss,
    "Margin": losses.MarginLoss,
    "Triplet": lambda **options: losses.TripletMarginLoss(0.2, **options),
    "Generalised lifted": losses.GeneralizedLiftedStructureLoss,
    "Multi-Similarity": losses.MultiSimilarityLoss,
    "Multi-Similarity, mined": losses.MultiSimilarityLoss,
    "Lifted structure": losses.LiftedStructureLoss,
    "N-pairs": losses.NPairsLoss,
    "NT-Xent": losses.NTXentLoss,
    "SupCon": losses.SupConLoss,
    "Circle": losses.CircleLoss,
}
LABELS = torch.arange(24) // 4
POSITIVES, NEGATIVE = slice(1, 4), 5
OTHERS = [at for at in range(4, 24) if at != NEGATIVE]


def claims() -> dict[str, list[bool]]:
    """The table of the page: whether a push depends on itself, on other negatives, on positives."""
    found = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0] in LOSSES:
            assert set(cells[1:]) <= {"yes", "no"}
            found[cells[0]] = [cell == "yes" for cell in cells[1:]]
    return found


def similarities() -> Tensor:
    s = torch.linspace(0.3, 0.52, 24, dtype=torch.float64)
    s[POSITIVES] = torch.tensor([0.42, 0.6, 0.56], dtype=torch.float64)
    s[NEGATIVE] = 0.56
    return s


def push(name: str, s: Tensor) -> float:
    """The weight of the negative where the anchor has these similarities."""
    random = torch.Generator().manual_seed(0)
    apart = torch.nn.functional.normalize(torch.randn(24, 40, generator=random, dtype=torch.float64))
    rows = torch.cat([s[:, None], apart * (1 - s * s).sqrt()[:, None]], dim=1)
    rows[0] = torch.nn.functional.one_hot(torch.tensor(0), 41)
    mined = miners.MultiSimilarityMiner(0.1)(rows, LABELS) if "mined" in name else None
    loss = LOSSES[name](reducer="sum")
    return gpw.weights(loss, rows, LABELS, 0, indices_tuple=mined).weight[0, NEGATIVE].item()


@pytest.mark.parametrize("name", LOSSES)
def test_table_of_the_page(name: str) -> None:
    before = push(name, similarities())
    assert before > 0
    moved = []
    for at, to in ((NEGATIVE, 0.59), (OTHERS, 0.54), (POSITIVES, 0.85)):
        s = similarities()
        s[at] = to
        moved.append(abs(push(name, s) - before) > 1e-6 * before)
    assert moved == claims()[name]


def test_page_names_every_loss_of_the_figure() -> None:
    assert claims().keys() == LOSSES.keys()
