"""The contests of losses with centres: everybody computes the same, centres keep their own books."""

from __future__ import annotations

import pytest
import torch
from bench_rows import results, row

from bench.memory import measure_peak
from bench.proxy_peers import (
    CENTRES,
    CLASSES,
    LOSSES,
    REGULARISED,
    check_proxies,
    proxy_contestants,
    soft_triple_contestants,
)
from bench.results import Results
from bench.targets import check_targets
from bench.workload import Workload
from fastdml.resident_memory import can_measure


def test_both_libraries_compute_every_loss_as_the_dense_form_in_float64() -> None:
    assert check_proxies("cpu", samples=16, width=8) == {}


def test_centres_are_the_same_for_all_and_gather_no_gradients() -> None:
    embeddings, labels = Workload(16, 8).make()
    functions = {one.name: one.make() for one in soft_triple_contestants("cpu") if one.name != "compiled"}
    values = {name: function(embeddings, labels) for name, function in functions.items()}
    for value in values.values():
        torch.testing.assert_close(value, values["dense"], rtol=1e-4, atol=0)
    function = functions["fastdml-cpu"]
    gradients = []
    for _ in range(2):
        function(embeddings, labels).backward()
        (centres,) = function.parameters()  # type: ignore[attr-defined]
        assert centres.grad is not None
        gradients.append(centres.grad.clone())
    assert centres.shape == (8, CLASSES * CENTRES)
    assert torch.equal(*gradients)


@pytest.mark.skipif(not can_measure(), reason="this system does not let a process reset its high-water mark")
def test_memory_is_beyond_the_centres_and_their_gradient() -> None:
    contestants = {one.name: one for one in proxy_contestants("cpu")}
    work = Workload(64, 16)
    own = measure_peak(contestants["soft-triple/fastdml"], "proxy_losses", work)
    theirs = measure_peak(contestants["soft-triple/pml"], "proxy_losses", work)
    similarities = 4 * 64 * CLASSES * CENTRES
    assert own.bytes is not None
    assert theirs.bytes is not None
    assert own.bytes < 0.3 * similarities < 1.5 * similarities < theirs.bytes


def of(*rows: object, contest: str) -> Results:
    return results(*rows, contest=contest)  # type: ignore[arg-type]


def test_targets_are_judged() -> None:
    held = of(
        row("soft-triple/fastdml", 100.0, 256, D=64),
        row("soft-triple/pml", 600.0, 256, D=64),
        row(f"{REGULARISED}/fastdml", 150.0, 256, D=64),
        row("soft-triple/fastdml", 20.0, 256, D=64, metric="memory", unit="MB"),
        row("soft-triple/pml", 100.0, 256, D=64, metric="memory", unit="MB"),
        contest="proxy_losses",
    )
    assert [target.verdict for target in check_targets(held)] == ["reached", "MISSED", "MISSED"]
    assert {target.verdict for target in check_targets(of(contest="proxy_losses"))} <= {"not measured"}


def test_every_loss_with_centres_takes_part() -> None:
    from fastdml import losses
    from fastdml.losses.centered import CenteredLoss

    shipped = {name for name in losses.__all__ if issubclass(getattr(losses, name), CenteredLoss)}
    assert {peers.loss for peers in LOSSES.values()} == shipped - {"ProxyLoss"}
