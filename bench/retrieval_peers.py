"""The contestants for Recall@1, 2, 4, 8 of every row against all others: cosine, float32, exact."""

from __future__ import annotations

import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.peers import Contestant
from bench.workload import Workload
from fastdml.retrieval import recall_at_k

KS = (1, 2, 4, 8)
BLOCK = 1024


def retrieval_contestants(device: str) -> list[Contestant]:
    """All of them; faiss runs on the CPU only, for faiss-cpu is what is compared with."""
    faiss = importlib.util.find_spec("faiss") is not None
    missing = None if faiss else "faiss-cpu is not installed"
    if device != "cpu":
        missing = "faiss-cpu does not run on a GPU"
    return [
        Contestant("fastdml", lambda: _fastdml),
        Contestant("faiss-cpu", lambda: _faiss, missing),
        Contestant("topk", lambda: _topk),
    ]


def _fastdml(embeddings: Tensor, labels: Tensor) -> dict[int, float]:
    return recall_at_k(embeddings.detach(), labels, KS)


def _faiss(embeddings: Tensor, labels: Tensor) -> dict[int, float]:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    unit = F.normalize(embeddings.detach().float(), dim=1).numpy()
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(unit)
    found = torch.from_numpy(index.search(unit, KS[-1] + 1)[1])
    return _recall(_without_own(found, 0), labels, labels)


def _topk(embeddings: Tensor, labels: Tensor) -> dict[int, float]:
    """Plain PyTorch, a block of queries at a time."""
    unit = F.normalize(embeddings.detach().float(), dim=1)
    total = dict.fromkeys(KS, 0.0)
    for start in range(0, len(unit), BLOCK):
        similarity = unit[start : start + BLOCK] @ unit.T
        rows = torch.arange(len(similarity), device=unit.device)
        similarity[rows, rows + start] = -torch.inf
        found = similarity.topk(KS[-1], dim=1).indices
        for k, share in _recall(found, labels[start : start + BLOCK], labels).items():
            total[k] += share * len(found) / len(unit)
    return total


def _without_own(found: Tensor, first: int) -> Tensor:
    """The k nearest others, from the k + 1 nearest, wherever in them the query itself stands."""
    own = found == torch.arange(first, first + len(found))[:, None]
    own[:, -1] |= ~own.any(dim=1)
    return found[~own].reshape(len(found), -1)


def _recall(found: Tensor, labels: Tensor, gallery_labels: Tensor) -> dict[int, float]:
    hit = gallery_labels[found] == labels[:, None]
    return {k: float(hit[:, :k].any(dim=1).double().mean()) for k in KS}


def check_recall(device: str, work: Workload) -> dict[str, float]:
    """Largest difference of each contestant's recalls from fastdml's: ties aside, it is 0."""
    batch = work.make(requires_grad=False)
    found = {c.name: c.make()(*batch) for c in retrieval_contestants(device) if c.absent is None}
    truth = found["fastdml"]
    return {name: max(abs(recall[k] - truth[k]) for k in KS) for name, recall in found.items()}
