"""The contestants: every way to compute one loss, functions of one signature, and the proof that they agree.

A contestant is ``loss(embeddings, labels) -> scalar``; here of Multi-Similarity with mining, epsilon 0.1.
Those that cannot run here stay in the list and say why.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import fastdml
from bench import blocked, dense
from bench.interleaved import status_of
from bench.workload import Workload
from fastdml.backends import registry
from fastdml.functional import multi_similarity

Function = Callable[[Tensor, Tensor], Any]
CHECKED = (192, 48)
"""N and D of the batch on which contestants are held against each other."""
ALLOWED = {"float32": 1e-4, "float64": 1e-9}
"""Largest relative error of loss and gradient against float64 with which a contestant may take part. In a
narrower dtype those that compare similarities in it mine other pairs, and no bound would mean anything."""

MOST_BYTES = 12e9
"""What a contestant may take of a host's memory, however much is free."""


@dataclass(frozen=True)
class Contestant:
    """One way to compute.

    Attributes:
        name: the provider of its rows.
        make: makes the function; called only where ``absent`` is None.
        absent: why it cannot run here.
        bytes_a_pair: about what it holds at its peak for each of the N^2 pairs, in float32; 0: linear in N.
        bytes_a_cube: the same for each of N^3.
        largest_on_cpu: the largest N that is worth waiting for on a CPU.
        compiles: whether its first call at a size compiles, which is no part of a step.
    """

    name: str
    make: Callable[[], Function]
    absent: str | None = None
    bytes_a_pair: float = 0.0
    bytes_a_cube: float = 0.0
    largest_on_cpu: int | None = None
    compiles: bool = False

    def refuses(self, work: Workload, free_bytes: float) -> str | None:
        """Why this size is not tried, None where it is. A GPU tries all: running out of memory is a row."""
        if self.absent is not None:
            return f"absent: {self.absent}"
        if work.device == "cpu":
            needed = (self.bytes_a_pair + self.bytes_a_cube * work.samples) * work.samples**2
            allowed = min(MOST_BYTES, 0.8 * free_bytes)
            if needed > allowed:
                return f"skipped: needs about {needed / 1e9:.0f} GB, may take {allowed / 1e9:.0f} GB"
            if self.largest_on_cpu is not None and work.samples > self.largest_on_cpu:
                return f"skipped: too slow above N = {self.largest_on_cpu} on a CPU"
        return None


def pair_contestants(device: str, interpreted: bool = False) -> list[Contestant]:
    """All of them, for tensors on ``device``; ``interpreted`` adds Triton, on the CPU."""
    names = ("triton", "cuda") if device == "cuda" else ("cpu", "triton") if interpreted else ("cpu",)
    fused = [
        Contestant(
            f"fastdml-{name}", partial(_fused, name), registry.reason_against(name), compiles=name == "triton"
        )
        for name in names
    ]
    return [
        *fused,
        Contestant("compiled", _compiled, bytes_a_pair=15, largest_on_cpu=16384, compiles=True),
        Contestant("blocked", lambda: blocked.multi_similarity, largest_on_cpu=32768),
        Contestant("dense", lambda: dense.multi_similarity, bytes_a_pair=31, largest_on_cpu=16384),
        Contestant("pml", _pml, pml_missing(), bytes_a_pair=66, largest_on_cpu=8192),
    ]


def pml_missing() -> str | None:
    """Why pytorch-metric-learning cannot take part, None where it can."""
    has_pml = importlib.util.find_spec("pytorch_metric_learning") is not None
    return None if has_pml else "pytorch-metric-learning is not installed"


def _fused(backend: str) -> Function:
    def loss(embeddings: Tensor, labels: Tensor) -> Tensor:
        # The backward needs no backend: the forward's choice is saved.
        with fastdml.use_backend(backend):
            return multi_similarity(embeddings, labels, epsilon=blocked.EPSILON)

    return loss


def _compiled() -> Function:
    # One graph a shape: dynamic ones are up to twice as slow. Without the reset the ninth shape would fail,
    # for torch.compile keeps eight.
    torch._dynamo.reset()
    loss: Function = torch.compile(dense.multi_similarity, dynamic=False, fullgraph=True)
    return loss


def _pml() -> Function:
    from pytorch_metric_learning.losses import MultiSimilarityLoss
    from pytorch_metric_learning.miners import MultiSimilarityMiner

    loss, miner = MultiSimilarityLoss(), MultiSimilarityMiner(epsilon=blocked.EPSILON)

    def mined(embeddings: Tensor, labels: Tensor) -> Tensor:
        result: Tensor = loss(embeddings, labels, miner(embeddings, labels))
        return result

    return mined


@dataclass(frozen=True)
class Agreement:
    """How far a contestant's loss and gradient are from the truth in float64, relative."""

    loss_error: float
    gradient_error: float
    allowed: float
    raised: str = ""
    """What it raised instead."""

    @property
    def agrees(self) -> bool:
        """False also where an error is NaN."""
        return self.loss_error <= self.allowed and self.gradient_error <= self.allowed


def check_agreement(
    contestants: Sequence[Contestant],
    device: str,
    dtype: str = "float32",
    samples: int = CHECKED[0],
    width: int = CHECKED[1],
    allowed: float | None = None,
    truth: Function = dense.multi_similarity,
) -> dict[str, Agreement]:
    """Compares every contestant that can run with ``truth`` in float64, on fresh embeddings."""
    embeddings, labels = Workload(samples, width, dtype, device).make()
    exact, exact_gradient = _value_and_gradient(truth, embeddings.detach().double(), labels)
    found = {}
    for contestant in contestants:
        if contestant.absent is None:
            within = ALLOWED[dtype] if allowed is None else allowed
            try:
                loss, gradient = _value_and_gradient(contestant.make(), embeddings.detach(), labels)
            except Exception as error:  # the others are held against each other all the same
                found[contestant.name] = Agreement(math.nan, math.nan, within, status_of(error))
                continue
            found[contestant.name] = Agreement(
                float((loss - exact).abs() / exact.abs()),
                float((gradient - exact_gradient).norm() / exact_gradient.norm()),
                within,
            )
    return found


def disagreements(found: dict[str, Agreement]) -> dict[str, str]:
    """The contestants that do not agree, and how far off they are."""
    return {
        name: one.raised or f"loss off by {one.loss_error:.1e}, gradient by {one.gradient_error:.1e}"
        for name, one in found.items()
        if not one.agrees
    }


def _value_and_gradient(loss: Function, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    leaf = embeddings.clone().requires_grad_()
    value = loss(leaf, labels)
    value.backward()
    assert leaf.grad is not None
    return value.detach().double(), leaf.grad.double()
