"""Losses of a global batch, what one process makes of them, and what the ranks run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

import fastdml
from fastdml import losses, miners, reducers
from fastdml.distances import CosineSimilarity
from fastdml.distributed import GlobalBatchLoss
from fastdml.distributed.collectives import AnchorsAndCandidates, Parts
from fastdml.soft_labels import SoftLabels
from fastdml.training.catalogue import LOSSES as CATALOGUE

CLASSES, WIDTH, SAMPLES = 6, 5, 17
DIVISIONS = ((9, 8), (5, 0, 3, 9))
"""Samples of every rank."""


class Norms(nn.Module):
    """A regulariser with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor(1.5))

    def forward(self, rows: Tensor) -> Tensor:
        return (rows.norm(dim=1) ** self.power).mean()


class FirstPairs(nn.Module):
    """A miner of another making, which knows nothing of candidates that are the anchors."""

    def forward(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        same = labels[:, None] == labels[None, :]
        same.fill_diagonal_(False)
        near = embeddings @ embeddings.T > 0
        return (*torch.where(same & near), *torch.where((labels[:, None] != labels[None, :]) & near))


class ClassMeans(nn.Module):
    """A loss of another making: distance to the mean of the class."""

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        members = nn.functional.one_hot(labels, CLASSES).to(embeddings)
        means = members.T @ embeddings / members.sum(dim=0).clamp_min(1)[:, None]
        return (embeddings - means[labels]).square().sum() / len(labels)


def squares_of_losses(losses: Any, embeddings: Tensor, labels: Tensor) -> Tensor:
    """A reducer of another making, which is given every single loss."""
    (one,) = losses.values()
    return (one["losses"] ** 2).sum() + embeddings.square().mean() + labels.sum() * 0


def mined(loss: nn.Module, miner: nn.Module) -> nn.Module:
    return losses.MultipleLosses([loss], [miner])


def boundaries(**options: Any) -> nn.Module:
    """A margin loss with a learnt boundary of each class."""
    loss = losses.MarginLoss(learn_beta=True, num_classes=CLASSES, beta=1.1, **options)
    with torch.no_grad():
        loss.beta += torch.arange(CLASSES) * 0.05
    return loss


CLASS_WEIGHTS = torch.linspace(0.5, 2, CLASSES)
EITHER = {"pos_loss": reducers.ThresholdReducer(low=0.2), "neg_loss": reducers.SumReducer()}
COSINE = CosineSimilarity()

REDUCERS: dict[str, Callable[[], Any]] = {
    "mean": lambda: "mean",
    "sum": lambda: "sum",
    "none": lambda: "none",
    "non-zero": reducers.AvgNonZeroReducer,
    "threshold": lambda: reducers.ThresholdReducer(low=0.3, high=6),
    "class-weighted": lambda: reducers.ClassWeightedReducer(CLASS_WEIGHTS),
    "nothing": reducers.DoNothingReducer,
    "of another making": lambda: squares_of_losses,
}
REDUCED: dict[str, Callable[..., nn.Module]] = {
    "element": losses.SupConLoss,
    "pair": losses.NTXentLoss,
    "triplet": losses.TripletMarginLoss,
    "each class": losses.NPairsLoss,
}

MORE: dict[str, Callable[[], nn.Module]] = {
    "contrastive, per anchor": lambda: losses.ContrastiveLoss(reducer=reducers.PerAnchorReducer()),
    "contrastive, bounded apart": lambda: losses.ContrastiveLoss(reducer=reducers.MultipleReducers(EITHER)),
    "contrastive of lengths": lambda: losses.ContrastiveLoss.preset("paper"),
    "lifted, mined": lambda: mined(losses.LiftedStructureLoss(), miners.PairMarginMiner(0.9, 1.2)),
    "lifted of lengths": lambda: losses.LiftedStructureLoss.preset("paper"),
    "circle, mined": lambda: mined(losses.CircleLoss(gamma=8), miners.MultiSimilarityMiner(0.1)),
    "nt-xent, mined by another distance": lambda: mined(
        losses.NTXentLoss(0.5), miners.PairMarginMiner(0.5, 1.3)
    ),
    "supcon, easy positives": lambda: mined(
        losses.SupConLoss(), miners.BatchEasyHardMiner("easy", "hard", distance=COSINE)
    ),
    "triplets, smooth": lambda: losses.TripletMarginLoss(0.2, smooth_loss=True),
    "triplets, swapped": lambda: losses.TripletMarginLoss(0.2, swap=True),
    "triplets, another miner": lambda: mined(losses.TripletMarginLoss(0.2), FirstPairs()),
    "triplets of listed pairs": lambda: mined(
        losses.TripletMarginLoss(0.2), miners.PairMarginMiner(0.5, 0.3, distance=COSINE)
    ),
    "margin, a boundary a class": lambda: boundaries(),
    "margin, dearer boundaries": lambda: boundaries(nu=0.2),
    "margin, a dearer boundary": lambda: losses.MarginLoss(learn_beta=True, nu=0.2, beta=1.1),
    "margin of few triplets": lambda: mined(
        losses.MarginLoss(learn_beta=True, nu=0.2), miners.TripletMarginMiner(0.02, "semihard")
    ),
    "margin above 0": lambda: boundaries(nu=0.1, reducer=reducers.AvgNonZeroReducer()),
    "margin, bounded": lambda: boundaries(nu=0.1, reducer=reducers.ThresholdReducer(0.1, 0.6)),
    "a regulariser": lambda: losses.MultiSimilarityLoss(
        embedding_regularizer=Norms(), embedding_reg_weight=0.3
    ),
    "boundary and regulariser": lambda: boundaries(embedding_regularizer=Norms()),
    "a rule": lambda: losses.RuleLoss(fastdml.rules.SupCon(0.3), distance=COSINE, reducer="sum"),
    "another making": ClassMeans,
    "several": lambda: losses.MultipleLosses(
        {"ms": losses.MultiSimilarityLoss(), "beta": boundaries(), "proxies": losses.ProxyAnchorLoss(6, 5)},
        {"beta": miners.TripletMarginMiner(0.3), "proxies": FirstPairs()},
        {"ms": 0.5, "beta": 2.0, "proxies": 0.3},
    ),
    "memory within several": lambda: losses.MultipleLosses(
        [losses.CrossBatchMemory(losses.ContrastiveLoss(), WIDTH, 20), losses.ArcFaceLoss(CLASSES, WIDTH)]
    ),
}


def loss_named(name: str) -> nn.Module:
    """The same wherever it is made."""
    torch.manual_seed(3)
    if name in MORE:
        return MORE[name]()
    if name in CATALOGUE:
        return CATALOGUE[name].make(CLASSES, WIDTH)
    kind, reducer = name.split(", ")
    return REDUCED[kind](reducer=REDUCERS[reducer]())


def samples(dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Embeddings that crowd by class, and labels of which one class has one sample."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES - 1, (SAMPLES,), generator=generator)
    labels[3] = CLASSES - 1
    middles = torch.randn(CLASSES, WIDTH, generator=generator, dtype=torch.float64)
    noise = torch.randn(SAMPLES, WIDTH, generator=generator, dtype=torch.float64)
    return (0.6 * middles[labels] + noise).to(dtype), labels


class Found(NamedTuple):
    """What a loss gave: of all samples, or of those of a rank."""

    values: list[Tensor]
    embeddings: Tensor
    parameters: dict[str, Tensor]


def tensors_of(value: Any) -> list[Tensor]:
    """All tensors that a loss returned, by name."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [one for name in sorted(value) for one in tensors_of(value[name])]
    return [one for part in value for one in tensors_of(part)] if isinstance(value, tuple | list) else []


def differentiated(loss: nn.Module, embeddings: Tensor, labels: Any, **options: Any) -> Found:
    embeddings = embeddings.clone().requires_grad_()
    values = tensors_of(loss(embeddings, labels, **options))
    # an upstream gradient other than one, the same on every rank
    sum((one.sum() * 1.5 for one in values if one.requires_grad), torch.zeros(())).backward()
    grads = {
        name.removeprefix("loss.") if isinstance(loss, GlobalBatchLoss) else name: parameter.grad.clone()
        for name, parameter in loss.named_parameters()
        if parameter.grad is not None
    }
    gradient = torch.zeros_like(embeddings) if embeddings.grad is None else embeddings.grad
    return Found([one.detach() for one in values], gradient, grads)


def of_one_process(name: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> Found:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return differentiated(loss_named(name).to(wide), *samples(dtype, seed))


def own(group: Any, sizes: tuple[int, ...], values: Any) -> Any:
    """This rank's."""
    rank = dist.get_rank(group)
    first = sum(sizes[:rank])
    return values[first : first + sizes[rank]]


def of_this_rank(
    group: Any,
    name: str,
    sizes: tuple[int, ...],
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    data_parallel: bool = False,
) -> Found:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    loss = GlobalBatchLoss(loss_named(name).to(wide), group, data_parallel=data_parallel)
    embeddings, labels = samples(dtype, seed)
    return differentiated(loss, own(group, sizes, embeddings), own(group, sizes, labels))


def lopsided() -> tuple[Tensor, Tensor]:
    """Only the first rank of 4 and 4 has negatives that a miner keeps."""
    embeddings = torch.eye(6, dtype=torch.float64)[[0, 0, 1, 1, 2, 2, 3, 3]]
    embeddings = embeddings + 0.1 * torch.randn(8, 6, generator=torch.Generator().manual_seed(1)).double()
    embeddings[2] = embeddings[0] + 0.01
    embeddings[3] = embeddings[0] - 0.01
    return embeddings, torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])


def lopsided_loss(kind: str) -> nn.Module:
    loss = {
        "supcon": lambda: losses.SupConLoss(reducer="mean"),
        "lifted": lambda: losses.LiftedStructureLoss(pos_margin=1, distance=COSINE),
    }[kind]()
    return mined(loss, miners.PairMarginMiner(2.0, 0.6, distance=COSINE))


def lopsided_on_ranks(group: Any, kind: str) -> Found:
    embeddings, labels = lopsided()
    return differentiated(
        GlobalBatchLoss(lopsided_loss(kind), group),
        own(group, (4, 4), embeddings),
        own(group, (4, 4), labels),
    )


def soft_problem(kind: str) -> tuple[nn.Module, Any, dict[str, Tensor]]:
    torch.manual_seed(5)
    shares = torch.rand(SAMPLES, CLASSES, dtype=torch.float64).softmax(dim=1)
    confidence = torch.rand(SAMPLES) > 0.3
    weights = torch.rand(SAMPLES, dtype=torch.float64)
    labels = samples()[1]
    loss, given, options = {
        "sparse": (losses.FATLoss(margin=0.5), SoftLabels.of(shares, 3), {"confidence": confidence}),
        "dense": (losses.HybridFATLoss(CLASSES, WIDTH), shares, {}),
        "trusted": (losses.FATLoss(margin=0.5), labels, {"confidence": confidence.double()}),
        "weighted": (losses.ArcFaceLoss(CLASSES, WIDTH, scale=8), labels, {"weights": weights}),
    }[kind]
    return loss.double(), given, options


def soft_on_ranks(group: Any, kind: str, sizes: tuple[int, ...]) -> Found:
    loss, labels, options = soft_problem(kind)
    first = sum(sizes[: dist.get_rank(group)])
    rows = slice(first, first + sizes[dist.get_rank(group)])
    own_options = {name: value[rows] for name, value in options.items()}
    return differentiated(GlobalBatchLoss(loss, group), samples()[0][rows], labels[rows], **own_options)


def cancelling_parts(group: Any, parts: tuple[int, ...]) -> Tensor:
    """The gradient of one bfloat16 number, of which every rank has a part."""
    rank = dist.get_rank(group)
    rows = torch.zeros(1, 1, dtype=torch.bfloat16, requires_grad=True)
    _, everyone = AnchorsAndCandidates.apply(rows, Parts((1, 1, 1), rank, group), torch.float32, 1)
    (everyone * parts[rank]).sum().backward()
    return rows.grad  # type: ignore[return-value]


def sampled_triplets(group: Any) -> Found:
    torch.manual_seed(dist.get_rank(group))
    loss = GlobalBatchLoss(losses.TripletMarginLoss(triplets_per_anchor=2), group)
    embeddings, labels = samples()
    return differentiated(loss, own(group, (9, 8), embeddings), own(group, (9, 8), labels))
