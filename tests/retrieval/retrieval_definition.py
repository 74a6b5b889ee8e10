"""Retrieval by its definition: every query's gallery sorted in full, in float64, one query at a time."""

from __future__ import annotations

import numpy as np
import torch


def sorted_hits(x, labels, query=None, gallery=None, cameras=None):
    """The hits (bool) of each query's ranked gallery, negatives before positives of equal similarity."""
    x, labels = x.double().numpy(), labels.numpy()
    query = np.arange(len(x)) if query is None else np.asarray(query)
    gallery = np.arange(len(x)) if gallery is None else np.asarray(gallery)
    found = []
    for row in query:
        others = gallery[gallery != row]
        if cameras is not None:
            camera = cameras.numpy()
            others = others[(labels[others] != labels[row]) | (camera[others] != camera[row])]
        hit = labels[others] == labels[row]
        similarity = x[others] @ x[row]
        found.append(hit[np.lexsort((hit, -similarity))])
    return found


def positive_ranks(*arguments, **options):
    """Ranks of the positives of each query, ascending lists."""
    return [(np.flatnonzero(hits) + 1).tolist() for hits in sorted_hits(*arguments, **options)]


def metrics(hits, k):
    """Recall@k, R-precision, MAP@R and mAP of ranked hits; queries without a hit left out."""
    rows = []
    for hit in hits:
        r = int(hit.sum())
        if r == 0:
            continue
        precision = np.cumsum(hit) / np.arange(1, len(hit) + 1)
        rows.append(
            (
                hit[:k].any(),
                hit[:r].mean(),
                (precision * hit)[:r].sum() / r,
                precision[hit].mean(),
            )
        )
    return np.mean(rows, axis=0).tolist()


def integer_rows(count, width, seed, largest=2):
    """Small whole numbers: inner products are exact in every dtype, and many are equal."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-largest, largest + 1, (count, width), generator=generator).float()


def unit_rows(count, width, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(
        torch.randn(count, width, generator=generator, dtype=torch.float64), dim=1
    )


def random_labels(count, classes, seed):
    return torch.randint(0, classes, (count,), generator=torch.Generator().manual_seed(seed))
