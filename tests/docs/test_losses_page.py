"""docs/losses.md says of every class what its code says."""

from __future__ import annotations

import re
from typing import get_args

import pytest
import torch
from documents import FOLDER, blocks
from torch import nn

from fastdml import distances, losses, miners, reducers
from fastdml.errors import InputError
from fastdml.losses import PairLoss
from fastdml.losses.centered import CenteredLoss

PAGE = (FOLDER / "losses.md").read_text(encoding="utf-8")
DISTANCES = {
    "Euclidean": distances.LpDistance(),
    "squared Euclidean": distances.LpDistance(power=2),
    "inner product of unit vectors": distances.DotProductSimilarity(),
    "cosine": distances.CosineSimilarity(),
}
WITH_CENTROIDS = losses.FATLoss | losses.ClusteringLoss
REDUCERS = {
    "mean above 0": reducers.AvgNonZeroReducer,
    "mean": reducers.MeanReducer,
    "sum by": reducers.DivisorReducer,
}


def table(first_column: str) -> list[list[str]]:
    """The cells of the table whose first heading that is, without its heading."""
    after = PAGE.split(f"| {first_column} |")[1].split("\n\n")[0]
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in after.splitlines()[2:] if line
    ]


def classes(cell: str) -> list[str]:
    return re.findall(r"`([A-Z]\w+)", cell)


def rows_of_losses() -> list[list[str]]:
    return [[*row, *[""] * (6 - len(row))] for row in table("class of `fastdml.losses`")]


def test_every_pair_loss_has_a_row() -> None:
    listed = [classes(row[0])[0] for row in rows_of_losses()]
    shipped = [name for name in losses.__all__ if issubclass(getattr(losses, name), PairLoss)]
    assert sorted(listed) == sorted(set(shipped) - {"PairLoss"})


@pytest.mark.parametrize("row", rows_of_losses(), ids=lambda row: row[0])
def test_defaults_and_presets_are_those_of_the_class(row: list[str]) -> None:
    kind = getattr(losses, classes(row[0])[0])
    if kind is losses.RuleLoss:
        return
    distance, reducer, presets = row[3:6]
    named = [found for words, found in DISTANCES.items() if distance.startswith(words)]
    assert named == [kind.default_distance]
    assert next(found for words, found in REDUCERS.items() if reducer.startswith(words)) is (
        kind.default_reducer
    )
    assert presets.split(", ") == list(kind.presets)
    if "no other" in distance:
        with pytest.raises(InputError, match="distance of"):
            kind(distance=distances.LpDistance())
    else:
        kind(distance=distances.LpDistance())


def test_every_loss_with_centres_has_a_row_that_says_what_it_is() -> None:
    rows = table("class with centres")
    shipped = {name for name in losses.__all__ if issubclass(getattr(losses, name), CenteredLoss)}
    assert {classes(row[0])[0] for row in rows} == shipped - {"ProxyLoss"}
    for name, _, _, count, distance, presets in rows:
        kind = getattr(losses, classes(name)[0])
        loss = kind(3, 4)
        assert loss.centers_per_class == int(count)
        assert next(one for words, one in DISTANCES.items() if distance.startswith(words)) == loss.distance
        assert presets.split(", ") == list(kind.presets)
        if "no other" in distance:
            with pytest.raises(InputError, match="distance of"):
                kind(3, 4, distance=distances.LpDistance())


def test_every_loss_with_centroids_has_a_row_that_says_what_it_is() -> None:
    rows = table("class with centroids")
    shipped = {name for name in losses.__all__ if issubclass(getattr(losses, name), WITH_CENTROIDS)}
    assert {name for row in rows for name in classes(row[0])} == shipped
    for name, _, _, distance, presets in rows:
        kind = getattr(losses, classes(name)[0])
        assert distance == "Euclidean, no other"
        assert kind.default_distance == distances.LpDistance()
        sizes = (3, 4) if kind is losses.HybridFATLoss else ()
        with pytest.raises(InputError, match="distance of"):
            kind(*sizes, distance=distances.CosineSimilarity())
        if presets != "the same":
            assert presets.split(", ") == list(kind.presets)


def test_every_wrapper_miner_distance_and_reducer_has_a_row() -> None:
    wrappers = re.findall(r"^\| `(\w+)\(", PAGE.split("## Wrappers")[1], re.MULTILINE)
    others = PairLoss | CenteredLoss | WITH_CENTROIDS
    shipped = {name for name in losses.__all__ if not issubclass(getattr(losses, name), others)}
    assert set(wrappers) == shipped - {"CentroidBank"}  # which stands beside the losses that take one
    rows = {name for row in table("class of `fastdml.miners`") for name in classes(row[0])}
    assert rows == {name for name in miners.__all__ if name.endswith("Miner")} - {"Miner"}
    rows = {name for row in table("class of `fastdml.distances`") for name in classes(row[0])}
    assert rows == {kind.__name__ for kind in get_args(distances.Distance)}
    rows = {name for row in table("class of `fastdml.reducers`") for name in classes(row[0])}
    shipped = {
        name
        for name, value in vars(reducers).items()
        if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == "fastdml.reducers"
    }
    assert rows == shipped - {"Reducer", "ForeignReducer"}


def test_what_is_fused_is_what_the_rules_say() -> None:
    fused = PAGE.split("### What is fused")[1]
    for sentence, loss in {
        "a temperature below 1/70": losses.NTXentLoss(1 / 71),
        'the preset "face"': losses.CircleLoss.preset("face"),
        'the preset "paper"\n  of `NPairsLoss`': losses.NPairsLoss.preset("paper"),
        'the preset "paper" of contrastive': losses.ContrastiveLoss.preset("paper"),
        "of both lifted structures": losses.GeneralizedLiftedStructureLoss.preset("paper"),
    }.items():
        assert sentence in fused
        assert loss.rule().unsupported(loss.closeness, "cpu", torch.float32) is not None
    for row in rows_of_losses():
        kind = getattr(losses, classes(row[0])[0])
        if kind not in (losses.RuleLoss, losses.TripletMarginLoss):
            loss = kind()
            for backend in ("triton", "cuda", "cpu"):
                assert loss.rule().unsupported(loss.closeness, backend, torch.float32) is None


def test_the_examples_run() -> None:
    embeddings = torch.randn(24, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    names = {"embeddings": embeddings, "labels": torch.arange(24) // 4}
    for block in blocks("losses.md", "python"):
        embeddings.grad = None
        exec(block, names | {"torch": torch, "losses": losses})
        assert embeddings.grad is not None
        assert embeddings.grad.norm() > 0
