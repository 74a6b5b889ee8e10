"""Contestants for Recall@1, 10, 100, 1000 and MAP@R of every row against all others: float32, exact."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.peers import Contestant
from bench.workload import Workload
from fastdml.retrieval import evaluate

KS = (1, 10, 100, 1000)
BLOCK = 1024
ALLOWED = 1e-9
"""Largest difference of a metric, a mean of float64, from fastdml's."""

Metrics = dict[str, float]
"""In [0, 1], by name; a contestant may lack some."""


def retrieval_contestants(device: str) -> list[Contestant]:
    """All of them; faiss runs on the CPU only, for faiss-cpu is what is compared with."""
    missing = None if _installed("faiss") else "faiss-cpu is not installed"
    if device != "cpu":
        missing = "faiss-cpu does not run on a GPU"
    no_pml = None if _installed("pytorch_metric_learning") else "pytorch-metric-learning is not installed"
    return [
        Contestant("fastdml", lambda: _fastdml),
        Contestant("faiss-cpu", lambda: _faiss, missing),
        Contestant("pml", lambda: _pml, missing or no_pml, bytes_a_pair=2.1),
        Contestant("topk", lambda: _topk),
    ]


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _fastdml(embeddings: Tensor, labels: Tensor) -> Metrics:
    found = evaluate(embeddings, labels, KS)
    return {**{f"recall_at_{k}": share for k, share in found.recall.items()}, "map_at_r": found.map_at_r}


def _faiss(embeddings: Tensor, labels: Tensor) -> Metrics:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    unit = F.normalize(embeddings.detach().float(), dim=1).numpy()
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(unit)
    neighbours = min(KS[-1], len(unit) - 1)
    return _in_blocks(
        labels,
        lambda start, stop: _without_own(
            torch.from_numpy(index.search(unit[start:stop], neighbours + 1)[1]), start
        ),
    )


def _topk(embeddings: Tensor, labels: Tensor) -> Metrics:
    """Plain PyTorch."""
    unit = F.normalize(embeddings.detach().float(), dim=1)
    neighbours = min(KS[-1], len(unit) - 1)

    def search(start: int, stop: int) -> Tensor:
        similarity = unit[start:stop] @ unit.T
        rows = torch.arange(len(similarity), device=unit.device)
        similarity[rows, rows + start] = -torch.inf
        return similarity.topk(neighbours, dim=1).indices

    return _in_blocks(labels, search)


def _pml(embeddings: Tensor, labels: Tensor) -> Metrics:
    """Of Recall@K it has K = 1 only. It is spared a full sort: k is what MAP@R needs, not its default."""
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    calculator = AccuracyCalculator(
        include=("precision_at_1", "mean_average_precision_at_r"),
        k="max_bin_count",
        device=torch.device("cpu"),
    )
    found = calculator.get_accuracy(F.normalize(embeddings.detach().float(), dim=1), labels)
    return {"recall_at_1": found["precision_at_1"], "map_at_r": found["mean_average_precision_at_r"]}


def _in_blocks(labels: Tensor, search: Callable[[int, int], Tensor]) -> Metrics:
    """The metrics of the neighbours that ``search`` finds of the rows [start, stop), nearest first."""
    parts = []
    positives = labels.bincount()[labels] - 1
    for start in range(0, len(labels), BLOCK):
        stop = min(start + BLOCK, len(labels))
        hit = labels[search(start, stop)] == labels[start:stop, None]
        place = torch.arange(1, hit.shape[1] + 1, device=hit.device)
        r = positives[start:stop, None]
        precision = torch.where(hit & (place <= r), hit.cumsum(dim=1).double() / place, 0.0).sum(dim=1)
        parts.append(torch.stack([*(hit[:, :k].any(dim=1).double() for k in KS), precision / r[:, 0]]))
    means = torch.cat(parts, dim=1).mean(dim=1).tolist()
    return dict(zip([*(f"recall_at_{k}" for k in KS), "map_at_r"], means, strict=True))


def _without_own(found: Tensor, first: int) -> Tensor:
    """The k nearest others, from the k + 1 nearest, wherever in them the query itself stands."""
    own = found == torch.arange(first, first + len(found))[:, None]
    own[:, -1] |= ~own.any(dim=1)
    return found[~own].reshape(len(found), -1)


def check_retrieval(
    device: str, samples: int = 1200, width: int = 16, uneven: bool = False
) -> dict[str, str]:
    """The contestants whose metrics differ from fastdml's, and by how much: ties and rounding aside by 0."""
    batch = Workload(samples, width, device=device, uneven=uneven).make(requires_grad=False)
    found = {c.name: c.make()(*batch) for c in retrieval_contestants(device) if c.absent is None}
    truth = found["fastdml"]
    errors = {name: max(abs(has[key] - truth[key]) for key in has) for name, has in found.items()}
    return {name: f"metrics off by {error:.1e}" for name, error in errors.items() if not error < ALLOWED}
