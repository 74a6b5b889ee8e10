"""Losses and global batches, what one process makes of them, and what the ranks run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from fastdml import losses, reducers
from fastdml.distances import LpDistance
from fastdml.distributed import ShardedCenters, shard_centers
from fastdml.errors import InputError
from fastdml.losses.centered import CenteredLoss

WIDTH = 6
LOSSES: dict[str, tuple[str, dict[str, Any]]] = {
    "soft-triple": ("SoftTripleLoss", {"centers_per_class": 3, "tau": 0.2, "la": 5}),
    "soft-triple, each class its own number": ("SoftTripleLoss", {"centers_per_class": 3, "tau": 0.2}),
    "hard-triple": ("HardTripleLoss", {"centers_per_class": 3, "tau": 0.2}),
    "normalised softmax": ("NormalizedSoftmaxLoss", {}),
    "normalised softmax, smoothed": ("NormalizedSoftmaxLoss", {"label_smoothing": 0.1}),
    "proxy-nca": ("ProxyNCALoss", {"softmax_scale": 4}),
    "proxy-nca, paper": ("ProxyNCALoss", {"form": "paper"}),
    "proxy-nca of any length": (
        "ProxyNCALoss",
        {"distance": LpDistance(power=2, normalize_embeddings=False)},
    ),
    "arcface": ("ArcFaceLoss", {"scale": 8}),
    "arcface, ignoring 1": ("ArcFaceLoss", {"scale": 8, "ignore_index": 1}),
    "cosface": ("CosFaceLoss", {"scale": 8}),
    "sphereface": ("SphereFaceLoss", {}),
    "sub-centre arcface": ("SubCenterArcFaceLoss", {"scale": 8}),
    "proxy-anchor": ("ProxyAnchorLoss", {"alpha": 4}),
    "proxy-anchor, ignoring 1": ("ProxyAnchorLoss", {"alpha": 4, "ignore_index": 1}),
    "proxy-anchor by distances": ("ProxyAnchorLoss", {"alpha": 4, "distance": LpDistance()}),
    "proxy-anchor, mean": ("ProxyAnchorLoss", {"alpha": 4, "reducer": "mean"}),
    "above a threshold": ("CosFaceLoss", {"scale": 8, "reducer": reducers.ThresholdReducer(low=3.0)}),
    "with a regulariser": (
        "SoftTripleLoss",
        {"embedding_regularizer": lambda rows: rows.norm(dim=1).mean(), "embedding_reg_weight": 0.3},
    ),
}


class Problem(NamedTuple):
    """A loss and the batches of the ranks."""

    name: str
    classes: int
    sizes: tuple[int, ...]
    dtype: torch.dtype = torch.float64
    weighted: bool = False

    def loss(self) -> CenteredLoss:
        """The whole loss, the same wherever it is made."""
        kind, options = LOSSES[self.name]
        torch.manual_seed(3)
        made = getattr(losses, kind)(self.classes, WIDTH, **options).to(self.parameter_dtype)
        if "its own number" in self.name:
            made.set_counts(1 + torch.arange(self.classes).flip(0) % 3)
            with torch.no_grad():
                made.centers.copy_(torch.randn(made.centers.shape))
        return made

    @property
    def parameter_dtype(self) -> torch.dtype:
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def batches(self) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """Embeddings, labels and weights of every rank."""
        generator = torch.Generator().manual_seed(sum(self.sizes))
        total = sum(self.sizes)
        embeddings = torch.randn(total, WIDTH, generator=generator, dtype=torch.float64).to(self.dtype)
        labels = torch.randint(self.classes, (total,), generator=generator)
        weights = torch.rand(total, generator=generator, dtype=torch.float64).to(self.dtype)
        parts = zip(*(x.split(self.sizes) for x in (embeddings, labels, weights)), strict=True)
        return [(x, y, w if self.weighted else None) for x, y, w in parts]


class Found(NamedTuple):
    """What a loss gave: of all samples and centres, or of those of a rank."""

    value: Tensor
    embeddings: Tensor
    centers: Tensor
    weights: Tensor | None


def differentiated(
    loss: torch.nn.Module, centers: Tensor, embeddings: Tensor, labels: Tensor, weights: Tensor | None
) -> Found:
    embeddings = embeddings.clone().requires_grad_()
    options = {}
    if weights is not None:
        weights = options["weights"] = weights.clone().requires_grad_()
    value = loss(embeddings, labels, **options)
    # an upstream gradient other than one, the same on every rank
    (value.sum() * 1.5).backward()
    assert embeddings.grad is not None
    assert centers.grad is not None
    return Found(
        value.detach(), embeddings.grad, centers.grad.clone(), None if weights is None else weights.grad
    )


def of_one_process(problem: Problem) -> Found:
    loss = problem.loss()
    embeddings, labels, weights = zip(*problem.batches(), strict=True)
    joined = torch.cat(weights) if problem.weighted else None  # type: ignore[arg-type]
    return differentiated(loss, loss.centers, torch.cat(embeddings), torch.cat(labels), joined)


def of_this_rank(group: Any, problem: Problem) -> tuple[Found, Tensor]:
    """With the places of its centres in the whole."""
    sharded = shard_centers(problem.loss(), group)
    found = differentiated(sharded, sharded.centers, *problem.batches()[dist.get_rank(group)])
    return found, sharded.placement.centers(sharded.rank)


def refused_by(group: Any, problem: Problem, fault: str) -> str:
    """The message of the error of a call that does not fit."""
    rank = dist.get_rank(group)
    loss = problem.loss()
    if fault == "other centres" and rank == 1:
        loss = problem._replace(classes=problem.classes + 1).loss()
    if fault == "weight_regularizer":
        loss.weight_regularizer = torch.mean
    embeddings, labels, _ = problem.batches()[rank]
    options: dict[str, Any] = {}
    if fault == "label" and rank == 1:
        labels = labels + problem.classes
    if fault == "dtype" and rank == 1:
        embeddings = embeddings.float()
    if fault == "width" and rank == 1:
        embeddings = embeddings[:, 1:]
    if fault == "soft labels":
        labels = torch.rand(len(embeddings), problem.classes)
    if fault == "indices_tuple":
        options["indices_tuple"] = (torch.zeros(1, dtype=torch.int64),) * 4
    if fault == "ref_emb":
        options["ref_emb"] = embeddings
    if fault == "weights":
        options["weights"] = torch.ones(len(embeddings))
    try:
        shard_centers(loss, group)(embeddings, labels, **options)
    except InputError as error:
        return str(error)
    return "no error"


def with_mixed_wants(group: Any, problem: Problem) -> tuple[Found | None, Tensor]:
    """Only rank 0 differentiates its embeddings, only rank 1 weighs them."""
    sharded = shard_centers(problem.loss(), group)
    embeddings, labels, weights = problem.batches()[sharded.rank]
    if sharded.rank == 0:
        found = differentiated(sharded, sharded.centers, embeddings, labels, None)
        return found, sharded.centers.grad  # type: ignore[return-value]
    value = sharded(embeddings, labels, weights=weights if sharded.rank == 1 else None)
    (value * 1.5).backward()
    return None, sharded.centers.grad  # type: ignore[return-value]


def not_finite(group: Any, problem: Problem) -> Tensor:
    """A NaN in the batch of the last rank, and in one of its own centres."""
    sharded = shard_centers(problem.loss(), group)
    embeddings, labels, _ = problem.batches()[sharded.rank]
    if sharded.rank == sharded.ranks - 1:
        embeddings[0, 0] = torch.nan
    of_sample = sharded(embeddings, labels).detach()
    embeddings = embeddings.nan_to_num()
    if sharded.rank == sharded.ranks - 1:
        sharded.centers.detach()[0, 0] = torch.nan
    return torch.stack([of_sample, sharded(embeddings, labels).detach()])


def counted(group: Any, problem: Problem, delta: float) -> Tensor:
    return shard_centers(problem.loss(), group).count_centers(delta)


class Made(NamedTuple):
    """Centres that were made without the whole."""

    centers: Tensor
    classes: range
    drawn_after: Tensor


def made_apart(group: Any, name: str, classes: int, options: dict[str, Any]) -> Made:
    torch.manual_seed(3)
    with torch.device("meta"):
        whole = getattr(losses, LOSSES[name][0])(classes, WIDTH, **options)
    assert whole.centers.is_meta
    sharded: ShardedCenters = shard_centers(whole, group)
    return Made(sharded.centers.detach(), sharded.classes, torch.rand(4))


def by_steps(centers: Tensor) -> None:
    """Scaled by the number of classes, in several calls."""
    centers.normal_(std=0.1).mul_(3 / centers.shape[1]).clamp_(-0.2 / centers.shape[1], 2)


def row_by_row(centers: Tensor) -> None:
    for row in centers:
        row.normal_()


def refused_initialiser(group: Any, fill: Callable[[Tensor], Any]) -> str:
    with torch.device("meta"):
        whole = losses.CosFaceLoss(9, WIDTH, weight_init_func=fill)
    try:
        shard_centers(whole, group)
    except InputError as error:
        return str(error)
    return "no error"


def refused_loss(group: Any) -> str:
    try:
        shard_centers(losses.TripletMarginLoss(), group)  # type: ignore[arg-type]
    except InputError as error:
        return str(error)
    return "no error"


def unreduced_equal_one_process(group: Any, problem: Problem) -> bool:
    whole = problem.loss()
    whole.returns_rows = True
    batches = problem.batches()
    embeddings, labels = (torch.cat([batch[part] for batch in batches]) for part in (0, 1))
    found = shard_centers(whole, group)(*batches[dist.get_rank(group)][:2])
    torch.testing.assert_close(found, whole(embeddings, labels), rtol=1e-10, atol=0)
    return len(found) == sum(problem.sizes)
