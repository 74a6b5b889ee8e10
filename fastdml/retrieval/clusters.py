"""How well k-means on the embeddings finds the classes: NMI and AMI."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from fastdml.retrieval.inputs import RetrievalSets

ITERATIONS = 20
_PACKAGES = {"faiss": "faiss-cpu", "numpy": "numpy", "sklearn": "scikit-learn"}


class MissingPackageError(ImportError):
    """A package that only this needs is not installed; the message says which, and how to install it."""


@dataclass(frozen=True)
class Clustering:
    """Mutual information of classes and clusters: normalised by the arithmetic mean; adjusted for chance.

    `clusters` is the number of clusters, which is that of classes; `seed` that of k-means.
    """

    nmi: float
    ami: float
    clusters: int
    seed: int


def cluster(sets: RetrievalSets, seed: int) -> Clustering:
    """k-means (faiss, 20 iterations, on all points) of the queries' embeddings as they are compared.

    Raises:
        MissingPackageError: faiss or scikit-learn is not installed.
    """
    missing = [name for module, name in _PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingPackageError(
            f"clusters needs {' and '.join(missing)}, not installed here: pip install 'fastdml[evaluate]'"
        )
    import faiss
    from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

    labels = sets.labels[sets.query_rows]
    classes = int(labels.unique().numel())
    points = sets.compared(sets.query_rows).float().cpu().numpy()
    kmeans = faiss.Kmeans(
        points.shape[1],
        classes,
        niter=ITERATIONS,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(points),
    )
    kmeans.train(points)
    found = kmeans.index.search(points, 1)[1][:, 0]
    truth = labels.cpu().numpy()
    return Clustering(
        nmi=float(normalized_mutual_info_score(truth, found)),
        ami=float(adjusted_mutual_info_score(truth, found)),
        clusters=classes,
        seed=seed,
    )
