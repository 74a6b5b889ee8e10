"""Clustering loss: its search against plain loops and all sets of medoids, its value, gradient and edges."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

import fastdml
from fastdml import distances, reducers
from fastdml.losses.clustering import ClusteringLoss
from fastdml.losses.medoids import MedoidSearch, class_medoids, normalised_mutual_information
from pair_batches import make_batch

GAMMAS = (0.0, 1.0, 8.0)
EQUAL = 1e-9


def random_batch(seed: int, count: int, classes: int, apart: float = 1.0) -> tuple[Tensor, Tensor]:
    """Rows of unit length, float64, about centres that are ``apart`` from each other; no class is empty."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat(
        [torch.arange(classes), torch.randint(classes, (count - classes,), generator=generator)]
    )
    centres = torch.randn(classes, 4, generator=generator, dtype=torch.float64)
    rows = torch.randn(count, 4, generator=generator, dtype=torch.float64) + apart * centres[labels]
    return torch.nn.functional.normalize(rows), labels


def grid_batch(seed: int, count: int, classes: int) -> tuple[Tensor, Tensor]:
    """Points of a 3 x 3 grid, so that many rows, distances and objectives are equal."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    return torch.randint(3, (count, 2), generator=generator).double(), labels


def clusters_of(d: np.ndarray, medoids: list[int]) -> list[int]:
    """The nearest medoid of every sample, the first of equals."""
    return [min(sorted(medoids), key=lambda m: d[i, m]) for i in range(len(d))]


def entropy(groups: list[Any]) -> float:
    """Of a partition, given as the group of every sample."""
    return -sum(n / len(groups) * math.log(n / len(groups)) for n in Counter(groups).values())


def plain_nmi(labels: list[int], clusters: list[int]) -> float:
    """Mutual information by the mean of the entropies."""
    total = entropy(labels) + entropy(clusters)
    both = entropy(list(zip(labels, clusters, strict=True)))
    return 2 * (total - both) / total if total > EQUAL else 1.0


def objective(d: np.ndarray, labels: list[int], medoids: list[int], gamma: float) -> float:
    """F + gamma (1 - NMI), by its definition."""
    clusters = clusters_of(d, medoids)
    energy = -sum(d[i, m] for i, m in enumerate(clusters))
    return energy + gamma * (1 - plain_nmi(labels, clusters))


def slow_search(d: np.ndarray, labels: list[int], gamma: float, rounds: int) -> list[int]:
    """Greedy medoids, then swaps, a candidate at a time."""
    medoids: list[int] = []
    for _ in set(labels):
        best, most = -1, -math.inf
        for candidate in range(len(d)):
            if candidate not in medoids:
                value = objective(d, labels, [*medoids, candidate], gamma)
                if value > most + EQUAL:
                    best, most = candidate, value
        medoids.append(best)
    medoids.sort()
    for _ in range(rounds):
        before, clusters = list(medoids), clusters_of(d, medoids)
        for medoid in before:
            rest = [m for m in medoids if m != medoid]
            best, most = medoid, objective(d, labels, medoids, gamma)
            for candidate in range(len(d)):
                if clusters[candidate] == medoid:
                    value = objective(d, labels, [*rest, candidate], gamma)
                    if value > most + EQUAL:
                        best, most = candidate, value
            medoids = [*rest, best]
        medoids.sort()
        if medoids == before:
            break
    return medoids


def searched(rows: Tensor, labels: Tensor, gamma: float, rounds: int) -> list[int]:
    """The medoids that the search finds."""
    search = MedoidSearch(torch.cdist(rows, rows), labels, gamma)
    return search.swapped(search.greedy(len(labels.unique())), rounds).nonzero().flatten().tolist()


def true_energy(d: np.ndarray, labels: list[int]) -> float:
    """F~: of every class F of its best medoid."""
    members = [[i for i, y in enumerate(labels) if y == c] for c in sorted(set(labels))]
    return -sum(min(sum(d[i, m] for i in one) for m in one) for one in members)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("rounds", [0, 1, 5])
def test_the_search_is_that_of_plain_loops(gamma: float, rounds: int) -> None:
    swapped = 0
    for seed, (count, classes) in enumerate([(6, 2), (12, 3), (14, 7), (18, 4), (20, 5), (9, 9), (7, 1)]):
        rows, labels = random_batch(seed, count, classes)
        d = torch.cdist(rows, rows).numpy()
        expected = slow_search(d, labels.tolist(), gamma, rounds)
        assert searched(rows, labels, gamma, rounds) == expected
        swapped += expected != slow_search(d, labels.tolist(), gamma, 0)
    assert (swapped > 0) == (rounds > 0)  # the cases must tell greedy medoids from swapped ones


@pytest.mark.parametrize("gamma", GAMMAS)
def test_ties_are_broken_by_the_lowest_index(gamma: float) -> None:
    for seed in range(8):
        rows, labels = grid_batch(seed, 14, 4)
        d = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
        search = MedoidSearch(d, labels, gamma)
        found = search.swapped(search.greedy(len(labels.unique())), 5).nonzero().flatten().tolist()
        assert found == slow_search(d.numpy(), labels.tolist(), gamma, 5)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_nothing_found_exceeds_the_best_of_all_sets(gamma: float) -> None:
    reached = 0
    for seed in range(10):
        rows, labels = random_batch(seed, 8, 3)
        d, y = torch.cdist(rows, rows).numpy(), labels.tolist()
        best = max(objective(d, y, list(chosen), gamma) for chosen in itertools.combinations(range(8), 3))
        value = objective(d, y, searched(rows, labels, gamma, 5), gamma)
        assert value <= best + EQUAL
        reached += value >= best - EQUAL
        loss = ClusteringLoss(gamma)(rows, labels).item()
        assert loss == pytest.approx(max(0.0, value - true_energy(d, y)), abs=1e-9)
    assert reached >= 5


def test_no_swap_within_a_cluster_is_left_that_is_better() -> None:
    rows, labels = random_batch(3, 40, 8)
    search = MedoidSearch(torch.cdist(rows, rows), labels, 4.0)
    greedy = search.greedy(8)
    values = []
    for rounds in (0, 1, 2, 40):
        medoids = search.swapped(greedy, rounds).nonzero().flatten().tolist()
        values.append(objective(search.distances.numpy(), labels.tolist(), medoids, 4.0))
    assert values == sorted(values)
    assert values[-1] > values[0]
    clusters = clusters_of(search.distances.numpy(), medoids)
    for candidate, medoid in enumerate(clusters):
        other = [candidate if m == medoid else m for m in medoids]
        assert objective(search.distances.numpy(), labels.tolist(), other, 4.0) <= values[-1] + EQUAL


def test_mutual_information_is_that_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    for count, clusters, classes in [(50, 7, 5), (50, 50, 3), (9, 1, 4), (9, 4, 1), (200, 30, 40), (2, 2, 2)]:
        a = torch.randint(clusters, (count,), generator=generator)
        b = torch.randint(classes, (count,), generator=generator) - 2
        expected = pytest.approx(normalized_mutual_info_score(b.numpy(), a.numpy()), abs=1e-12)
        assert normalised_mutual_information(a, b).item() == expected
        assert plain_nmi(b.tolist(), a.tolist()) == expected  # what the other tests measure by
    one = torch.zeros(4, dtype=torch.int64)
    assert normalised_mutual_information(one, one) == 1
    assert normalised_mutual_information(one, torch.arange(4)) == 0
    assert normalised_mutual_information(torch.arange(4), torch.arange(4) * 5) == 1


def test_the_medoid_of_a_class_has_the_least_sum_of_distances() -> None:
    rows, labels = random_batch(1, 30, 5)
    d = torch.cdist(rows, rows)
    found = class_medoids(d, labels)
    assert torch.equal(labels[found], labels)
    assert -d[torch.arange(30), found].sum().item() == pytest.approx(true_energy(d.numpy(), labels.tolist()))
    pairs = torch.arange(6) // 2  # either sample of a pair is as good: the first is taken
    assert class_medoids(d[:6, :6], pairs).tolist() == [0, 0, 2, 2, 4, 4]


@pytest.mark.parametrize("normalised", [True, False])
def test_the_loss_by_its_formula(normalised: bool) -> None:
    rows, labels = random_batch(7, 16, 4)
    scaled = rows * torch.linspace(0.5, 3, 16)[:, None]
    loss = ClusteringLoss(2.0, distance=distances.LpDistance(normalize_embeddings=normalised))
    d = torch.cdist(*((rows, rows) if normalised else (scaled, scaled))).numpy()
    y = labels.tolist()
    best = objective(d, y, slow_search(d, y, 2.0, 5), 2.0)
    assert best > true_energy(d, y)
    assert loss(scaled, labels).item() == pytest.approx(best - true_energy(d, y), abs=1e-9)


@pytest.mark.parametrize("normalised", [True, False])
def test_the_gradient_is_that_of_differences(normalised: bool) -> None:
    rows, labels = random_batch(2, 10, 3)
    loss = ClusteringLoss(distance=distances.LpDistance(normalize_embeddings=normalised))
    rows = (rows * 1.7).requires_grad_()
    assert loss(rows, labels) > 0.1
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), rows, eps=1e-7)


def test_classes_that_are_clusters_cost_nothing() -> None:
    rows, labels = random_batch(5, 40, 5, apart=1000.0)
    rows.requires_grad_()
    loss = ClusteringLoss()(rows, labels)
    loss.backward()
    assert loss == 0
    assert torch.equal(rows.grad, torch.zeros_like(rows))
    mixed = ClusteringLoss()(rows, labels.flip(0))
    assert mixed > 0.5


def test_training_lowers_the_loss_and_makes_clusters_of_the_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(30) % 5
    noise = 2.5 * torch.randn(30, 14, generator=generator)  # a plain distance sees little of the classes
    inputs = torch.cat([torch.randn(5, 10, generator=generator)[labels], noise], dim=1)
    weights = torch.nn.Parameter(torch.randn(24, 6, generator=generator) / 5)
    loss, optimiser = ClusteringLoss(4.0), torch.optim.Adam([weights], lr=0.03)

    def found() -> tuple[float, float]:
        rows = torch.nn.functional.normalize((inputs @ weights).detach())
        return loss(rows, labels).item(), loss.medoids(rows, labels)[2].item()

    before = found()
    for _ in range(40):
        optimiser.zero_grad()
        loss(inputs @ weights, labels).backward()
        optimiser.step()
    after = found()
    assert after[0] < 0.3 * before[0]
    assert after[1] > before[1] + 0.3


@pytest.mark.parametrize("name", ["random", "sorted", "duplicates", "zero vectors", "huge labels"])
def test_float32_and_halves_come_near_float64(name: str) -> None:
    batch = make_batch(name)
    loss = ClusteringLoss(4.0)
    for dtype, near in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 5e-3)):
        rows = batch.embeddings.to(dtype).requires_grad_()
        value = loss(rows, batch.labels)
        assert value.dtype == torch.float32
        expected = loss(batch.embeddings, batch.labels).item()
        assert expected > 0
        assert value.item() == pytest.approx(expected, rel=near)
        value.backward()
        assert rows.grad.dtype == dtype
        assert rows.grad[(rows != 0).any(dim=1)].isfinite().all()
        assert rows.grad.count_nonzero() > 0


def test_autocast_changes_nothing_and_nothing_random_is_drawn() -> None:
    batch = make_batch("random").to(torch.float32)
    state = torch.get_rng_state()
    alone = ClusteringLoss()(*batch[:2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = ClusteringLoss()(*batch[:2])
    assert torch.equal(alone, cast)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", ["one sample", "one pair", "one class", "all distinct"])
def test_one_class_and_classes_of_one_sample_cost_nothing(name: str) -> None:
    batch = make_batch(name)
    rows = batch.embeddings.requires_grad_()
    loss = ClusteringLoss()(rows, batch.labels)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert rows.grad.abs().max() < 1e-12


def test_an_empty_batch_gives_a_differentiable_zero() -> None:
    rows = torch.randn(0, 8, requires_grad=True)
    loss = ClusteringLoss()(rows, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss == 0
    assert rows.grad.shape == (0, 8)


def test_copies_of_one_row_cost_the_margin_only() -> None:
    row = torch.randn(40, generator=torch.Generator().manual_seed(0))
    rows = row.repeat(12, 1).requires_grad_()
    loss = ClusteringLoss(3.0)(rows, torch.arange(12) // 4)
    loss.backward()
    assert loss == 3  # one cluster tells nothing of the classes
    assert torch.equal(rows.grad, torch.zeros_like(rows))


def test_near_copies_are_told_apart_in_float32() -> None:
    rows, labels = random_batch(11, 30, 5)
    near = (torch.tensor([1.0, -2.0, 0.5, 3.0]) + 1e-3 * rows).float()
    loss = ClusteringLoss(0.01, distance=distances.LpDistance(normalize_embeddings=False))
    for found, expected in zip(loss.medoids(near, labels), loss.medoids(near.double(), labels), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("where", [0, 50, slice(None)])
def test_nan_in_nan_out(where: Any) -> None:
    batch = make_batch("random").to(torch.float32)
    batch.embeddings[where, 3] = torch.nan
    rows = batch.embeddings.requires_grad_()
    loss = ClusteringLoss()(rows, batch.labels)
    loss.backward()
    assert loss.isnan()
    assert rows.grad.isnan().any()


def test_no_reducer_changes_the_loss() -> None:
    batch = make_batch("random")
    loss = ClusteringLoss()(*batch[:2])
    for reducer in ("mean", "sum", reducers.AvgNonZeroReducer(), reducers.PerAnchorReducer()):
        assert torch.equal(ClusteringLoss(reducer=reducer)(*batch[:2]), loss)
    listed = ClusteringLoss(reducer=reducers.DoNothingReducer())(*batch[:2])
    assert torch.equal(listed["loss"]["losses"], loss)
    assert listed["loss"]["reduction_type"] == "already_reduced"
    regularised = ClusteringLoss(embedding_regularizer=lambda x: x.square().sum(), embedding_reg_weight=0.5)
    torch.testing.assert_close(regularised(*batch[:2]), loss + batch.embeddings.square().sum() / 2)


def test_modules_copy_pickle_and_print() -> None:
    batch, loss = make_batch("sorted"), ClusteringLoss(2.5, swaps=1)
    for other in (
        copy.deepcopy(loss),
        pickle.loads(pickle.dumps(loss)),
        ClusteringLoss.preset("paper", gamma=2.5, swaps=1),
    ):
        assert torch.equal(other(*batch[:2]), loss(*batch[:2]))
    assert repr(loss) == "ClusteringLoss(\n  gamma=2.5, swaps=1\n  (reducer): MeanReducer()\n)"


ROWS, LABELS = torch.randn(6, 4), torch.arange(6) // 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ClusteringLoss(-1), "gamma must be a finite number that is not negative, got -1"),
        (lambda: ClusteringLoss(math.inf), "gamma must be a finite number .* got inf"),
        (lambda: ClusteringLoss(swaps=-1), "swaps must be an integer that is not negative, got -1"),
        (lambda: ClusteringLoss(swaps=1.5), "swaps must be an integer .* got 1.5"),
        (lambda: ClusteringLoss(reducer="none"), "reducer must not be 'none' for ClusteringLoss"),
        (
            lambda: ClusteringLoss(distance=distances.LpDistance(power=2)),
            r"distance of ClusteringLoss must be LpDistance\(\)",
        ),
        (lambda: ClusteringLoss()(ROWS[0], LABELS), r"embeddings must have shape \[N, D\], got \[4\]"),
        (lambda: ClusteringLoss()(ROWS, LABELS[1:]), r"labels must have shape \[6\], got \[5\]"),
        (lambda: ClusteringLoss()(ROWS, LABELS.float()), "labels must be one of int64, .* got float32"),
        (
            lambda: ClusteringLoss()(ROWS, LABELS, ()),
            "indices_tuple must be None for ClusteringLoss, got tuple",
        ),
        (lambda: ClusteringLoss()(ROWS, LABELS, None, ROWS), "ref_emb must be None for ClusteringLoss"),
        (
            lambda: ClusteringLoss()(ROWS, LABELS, ref_labels=LABELS),
            "ref_labels must be None for ClusteringLoss",
        ),
    ],
)
def test_bad_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(fastdml.InputError, match=message):
        call()
