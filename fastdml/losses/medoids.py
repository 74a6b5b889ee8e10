"""Medoids that violate the true classes most: greedy selection and swaps under a margin of NMI."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TIE = 1e-10
"""Relative difference up to which two objectives are equal: the order of a sum decides no medoid."""


def normalised_mutual_information(clusters: Tensor, labels: Tensor) -> Tensor:
    """NMI of two partitions of the same samples, normalised by the arithmetic mean of their entropies.

    Args:
        clusters: [B], integers.
        labels: [B], integers.

    Returns:
        A scalar of float64; 1 where both are of one group only.
    """
    same_cluster, same_class = clusters[:, None] == clusters, labels[:, None] == labels
    groups = (same_cluster, same_class, same_cluster & same_class)
    return _nmi(*(_negentropy(same.sum(dim=1)) for same in groups))


def class_medoids(distances: Tensor, labels: Tensor) -> Tensor:
    """The medoid of the class of every sample, [B] int64; of equally good ones the first.

    Args:
        distances: [B, B].
        labels: [B], integers.
    """
    distances, same_class = distances.double(), labels[:, None] == labels
    energy = -distances.masked_fill(~same_class, 0).sum(dim=1)  # as the medoid of its own class, [B]
    return _first_best(energy.expand_as(distances).masked_fill(~same_class, -math.inf))


class MedoidSearch:
    """Looks for the set A of medoids that maximises ``F(A) + gamma (1 - NMI(A, y))``.

    ``F(A) = -sum_i min_{m in A} d_im``, and NMI compares the classes y with the clusters of A, in which a
    sample belongs to its nearest medoid. A set is a bool mask [B]; of equal distances and of equal objectives
    the lowest index is taken. All candidates of a step are valued at once, in O(B^3).

    Args:
        distances: [B, B], symmetric, 0 on the diagonal.
        labels: [B], integers.
        gamma: weight of the margin.
    """

    def __init__(self, distances: Tensor, labels: Tensor, gamma: float) -> None:
        self.distances, self.gamma = distances.double(), gamma
        self.same_class = (labels[:, None] == labels).double()
        self.of_classes = _negentropy(self.same_class.sum(dim=1))
        self.samples = torch.arange(len(labels), device=labels.device)

    def nearest(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """The distance of every sample to its nearest medoid, [B], and which that is, [B] int64."""
        distance, medoid = self.distances.masked_fill(~chosen, math.inf).min(dim=1)
        return distance, medoid

    def greedy(self, count: int) -> Tensor:
        """A set of that many medoids, each the best to add to those before it."""
        chosen = torch.zeros_like(self.samples, dtype=torch.bool)
        for _ in range(count):
            values = self.values_with(chosen, self.samples).masked_fill(chosen, -math.inf)
            chosen[_first_best(values, self.gamma)] = True
        return chosen

    def swapped(self, chosen: Tensor, rounds: int) -> Tensor:
        """The set once every cluster in turn took its best member for its medoid, until none is better."""
        for _ in range(rounds):
            before, clusters = chosen, self.nearest(chosen)[1]
            for medoid in chosen.nonzero().flatten():
                others = ((clusters == medoid) & (self.samples != medoid)).nonzero().flatten()
                # the present medoid comes first, so that only a better one replaces it
                candidates = torch.cat([medoid[None], others])
                rest = chosen & (self.samples != medoid)
                best = candidates[_first_best(self.values_with(rest, candidates), self.gamma)]
                chosen = rest | (self.samples == best)
            if torch.equal(before, chosen):
                break
        return chosen

    def values_with(self, chosen: Tensor, candidates: Tensor) -> Tensor:
        """The objective of the set with each candidate added to it by itself.

        Args:
            chosen: [B], bool, the set.
            candidates: [K], int64, samples that are not in it.

        Returns:
            [K], float64.
        """
        distance, medoid = self.nearest(chosen)
        distances = self.distances[candidates]  # [K, B]
        moves = (distances < distance) | ((distances == distance) & (candidates[:, None] < medoid))
        energy = -torch.minimum(distances, distance).sum(dim=1)
        moved = moves.double()
        same_cluster = (medoid[:, None] == medoid).double()
        # how many share a sample's cluster, and how many its class as well; autocast leaves float64 alone
        cluster_sizes = self._shared(moves, moved, same_cluster, moved.sum(dim=1, keepdim=True))
        both_sizes = self._shared(moves, moved, same_cluster * self.same_class, moved @ self.same_class)
        nmi = _nmi(_negentropy(cluster_sizes), self.of_classes, _negentropy(both_sizes))
        return energy + self.gamma * (1 - nmi)

    @staticmethod
    def _shared(moves: Tensor, moved: Tensor, same: Tensor, joined: Tensor) -> Tensor:
        """The size of the group a sample is in, [K, B]: of what it joined, or of what is left of its own."""
        return torch.where(moves, joined, same.sum(dim=1) - moved @ same)


def _first_best(values: Tensor, scale: float = 0.0) -> Tensor:
    """The first index of the largest value in the last dimension; ``scale`` is that of what they sum."""
    most = values.amax(dim=-1, keepdim=True)
    return (values >= most - TIE * (most.abs() + scale)).byte().argmax(dim=-1)


def _nmi(clusters: Tensor, classes: Tensor, both: Tensor) -> Tensor:
    """NMI from minus the entropies of the clusters, of the classes and of their intersections, [...]."""
    total = clusters + classes
    # 0 / 0 where both are of one group only
    return (2 * (total - both) / total).nan_to_num(1.0).clamp_min(0)


def _negentropy(sizes: Tensor) -> Tensor:
    """Minus the entropy of a partition, from the size of the group that each sample is in, [..., B]."""
    return (sizes.double() / sizes.shape[-1]).log().mean(dim=-1)
