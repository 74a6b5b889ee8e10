"""Centres divided over ranks give what one process gives with all of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import sharded_cases as cases
import torch
from ranks import Ranks
from sharded_cases import LOSSES, Found, Problem, of_one_process, of_this_rank
from torch import Tensor

from fastdml import losses
from fastdml.distributed import shard_centers
from fastdml.errors import InputError

# ranks, classes, samples of every rank
DIVISIONS = {
    "two ranks": (2, 8, (5, 7)),
    "three ranks, seven classes": (3, 7, (6, 0, 4)),
    "four ranks, three classes": (4, 3, (3, 5, 0, 1)),
}


def joined(parts: list[tuple[Found, Tensor]], columns: bool) -> Found:
    """What the ranks found, as one."""
    found = [part for part, _ in parts]
    for part in found[1:]:
        assert torch.equal(part.value, found[0].value)  # bitwise on all ranks
    dim = int(columns)
    places = torch.cat([places for _, places in parts])
    centers = torch.cat([part.centers for part in found], dim)
    weights = [part.weights for part in found if part.weights is not None]
    return Found(
        found[0].value,
        torch.cat([part.embeddings for part in found]),
        torch.empty_like(centers).index_copy_(dim, places, centers),
        torch.cat(weights) if weights else None,
    )


def assert_same(found: Found, wanted: Found, tolerance: float, of_largest: float | None = None) -> None:
    """Up to a share of every number, and one of the largest: the same unless given."""
    of_largest = tolerance if of_largest is None else of_largest
    for name, value, truth in zip(Found._fields, found, wanted, strict=True):
        if truth is None:
            assert value is None
            continue
        scale = float(truth.abs().max()) if truth.numel() else 0.0
        torch.testing.assert_close(
            value,
            truth,
            rtol=tolerance,
            atol=of_largest * scale,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def equals_one_process(ranks: Ranks, problem: Problem, *tolerances: float) -> Found:
    parts = ranks(len(problem.sizes), of_this_rank, problem)
    wanted = of_one_process(problem)
    assert wanted.centers.abs().max() > 0
    assert_same(joined(parts, problem.loss().columns), wanted, *(tolerances or (1e-10,)))
    return wanted


@pytest.mark.parametrize("division", DIVISIONS)
@pytest.mark.parametrize("name", LOSSES)
def test_equals_one_process(ranks: Ranks, name: str, division: str) -> None:
    _, classes, sizes = DIVISIONS[division]
    wanted = equals_one_process(ranks, Problem(name, classes, sizes))
    assert wanted.embeddings.abs().max() > 0


@pytest.mark.parametrize("name", LOSSES)
def test_equals_one_process_in_float32(ranks: Ranks, name: str) -> None:
    equals_one_process(ranks, Problem(name, 7, (6, 0, 4), torch.float32), 2e-5)


@pytest.mark.parametrize("name", ["soft-triple", "arcface", "proxy-anchor"])
def test_gradients_are_summed_before_they_are_rounded_to_bfloat16(ranks: Ranks, name: str) -> None:
    # at most one unit of the last place apart, however much the parts cancel
    equals_one_process(ranks, Problem(name, 7, (6, 2, 4), torch.bfloat16), 2**-7, 1e-5)


@pytest.mark.parametrize("name", ["soft-triple", "arcface, ignoring 1", "sphereface"])
def test_weights_and_their_gradients(ranks: Ranks, name: str) -> None:
    equals_one_process(ranks, Problem(name, 7, (6, 0, 4), weighted=True))


@pytest.mark.parametrize("name", ["soft-triple", "proxy-anchor"])
@pytest.mark.parametrize("classes", [1, 5])
def test_no_samples_at_all_and_one_class(ranks: Ranks, name: str, classes: int) -> None:
    for sizes in ((0, 0, 0), (2, 0, 3)):
        problem = Problem(name, classes, sizes)
        parts = ranks(3, of_this_rank, problem)
        assert_same(joined(parts, problem.loss().columns), of_one_process(problem), 1e-10)


def test_all_losses_unreduced(ranks: Ranks) -> None:
    assert ranks(2, cases.unreduced_equal_one_process, Problem("arcface", 7, (6, 4))) == [True, True]


def test_two_runs_are_bitwise_equal(ranks: Ranks) -> None:
    problem = Problem("soft-triple", 7, (6, 2, 4), torch.float32)
    first, second = (ranks(3, of_this_rank, problem) for _ in range(2))
    for (a, _), (b, _) in zip(first, second, strict=True):
        for x, y in zip(a[:3], b[:3], strict=True):
            assert torch.equal(x, y)


def test_ranks_may_want_different_things(ranks: Ranks) -> None:
    problem = Problem("soft-triple", 7, (6, 2, 4), weighted=True)
    batches = problem.batches()
    weights = torch.cat([torch.ones(6).double(), batches[1][2], torch.ones(4).double()])
    loss = problem.loss()
    embeddings, labels = (torch.cat([batch[part] for batch in batches]) for part in (0, 1))
    wanted = cases.differentiated(loss, loss.centers, embeddings, labels, weights)
    found = ranks(3, cases.with_mixed_wants, problem)
    torch.testing.assert_close(found[0][0].embeddings, wanted.embeddings[:6], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        torch.cat([grad for _, grad in found], 1), wanted.centers, rtol=1e-10, atol=1e-12
    )


def test_nan_on_one_rank_is_nan_on_all(ranks: Ranks) -> None:
    for values in ranks(3, cases.not_finite, Problem("soft-triple", 7, (6, 2, 4))):
        assert values.isnan().all()


@pytest.mark.parametrize("name", ["soft-triple", "soft-triple, each class its own number", "arcface"])
@pytest.mark.parametrize("classes", [2, 7])
def test_counts_different_centres(ranks: Ranks, name: str, classes: int) -> None:
    problem = Problem(name, classes, (1, 1, 1))
    wanted = problem.loss().count_centers(0.7)
    for found in ranks(3, cases.counted, problem, 0.7):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("soft-triple", {"centers_per_class": 4}),
        ("proxy-anchor", {}),
        ("cosface", {}),
        ("cosface", {"weight_init_func": cases.by_steps}),
    ],
)
def test_parts_are_made_without_the_whole(ranks: Ranks, name: str, options: dict[str, object]) -> None:
    classes = 601
    found = ranks(3, cases.made_apart, name, classes, options)
    whole = getattr(losses, LOSSES[name][0])(classes, cases.WIDTH, **options)
    dim = int(whole.columns)
    made = torch.cat([part.centers for part in found], dim)
    assert made.shape == whole.centers.shape
    torch.testing.assert_close(made.std(), whole.centers.std(), rtol=0.05, atol=0)
    torch.testing.assert_close(
        made.abs().max() / made.std(), whole.centers.abs().max() / whole.centers.std(), rtol=0.3, atol=0
    )
    assert [part.classes for part in found] == [range(201), range(201, 401), range(401, 601)]
    firsts = [part.centers.flatten()[:4] for part in found]
    assert not torch.equal(firsts[0], firsts[1])
    assert torch.equal(found[0].drawn_after, found[1].drawn_after)


@pytest.mark.parametrize("fill", [torch.nn.init.orthogonal_, cases.row_by_row])
def test_an_initialiser_that_needs_the_whole_is_refused(ranks: Ranks, fill: Callable[[Tensor], Any]) -> None:
    for message in ranks(2, cases.refused_initialiser, fill):
        assert "weight_init_func must set every number by itself" in message


@pytest.mark.parametrize(
    ("fault", "messages"),
    {
        "label": ("must fit on every rank, got an error on rank 1", r"labels must be in \[0, 7\), got"),
        "width": ("must fit on every rank, got an error on rank 1", r"embeddings must have shape \[B, 6\]"),
        "dtype": ("embeddings must have the dtype of rank 1", "embeddings must have the dtype of rank 0"),
        "other centres": ("the 24 centres of that of rank 1, got 21", "the 21 centres of that of rank 0"),
        "soft labels": ("labels must be integers",) * 2,
        "indices_tuple": ("indices_tuple must be None",) * 2,
        "ref_emb": ("ref_emb and ref_labels must be None",) * 2,
        "weight_regularizer": ("weight_regularizer must be None",) * 2,
    }.items(),
)
def test_what_does_not_fit_is_named_on_all_ranks(ranks: Ranks, fault: str, messages: tuple[str, str]) -> None:
    found = ranks(2, cases.refused_by, Problem("soft-triple", 7, (6, 4)), fault)
    for got, wanted in zip(found, messages, strict=True):
        assert re.search(wanted, got), got


def test_weights_are_refused_by_proxy_anchor(ranks: Ranks) -> None:
    for got in ranks(2, cases.refused_by, Problem("proxy-anchor", 7, (6, 4)), "weights"):
        assert "weights must be None for ProxyAnchorLoss" in got


def test_needs_a_process_group_and_a_loss_with_centres(ranks: Ranks) -> None:
    with pytest.raises(InputError, match="group must be a process group, got none"):
        shard_centers(losses.ArcFaceLoss(3, 4))
    for message in ranks(1, cases.refused_loss):
        assert "loss must be one with centres of classes" in message
        assert "got TripletMarginLoss" in message
