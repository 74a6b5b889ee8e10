"""A step's time on the device alone: captured as a CUDA graph and replayed: no launch is waited for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.interleaved import Outcome, rotated, status_of
from bench.workload import Workload

ROUNDS = 9
REPLAYS = 20


@dataclass(frozen=True)
class Captured:
    """A graph, and the tensors of which it holds only the addresses."""

    graph: torch.cuda.CUDAGraph
    embeddings: Tensor
    labels: Tensor


def graph_times(makers: Mapping[str, Callable[[], Any]], work: Workload) -> dict[str, Outcome]:
    """Seconds a forward and backward as a graph, in rotated rounds; why not, for what cannot be captured."""
    outcomes = {name: Outcome() for name in makers}
    graphs: dict[str, Captured] = {}
    for name, make in makers.items():
        try:
            graphs[name] = _capture(make(), work)
        except Exception as error:
            outcomes[name].status = f"not captured: {status_of(error)}"[:160]
            error.__traceback__ = None
            torch.cuda.synchronize()
    for number in range(ROUNDS):
        for name in rotated(list(graphs), number):
            outcomes[name].seconds.setdefault("graph", []).append(_replay(graphs[name]))
    return outcomes


def _capture(loss: Callable[..., torch.Tensor], work: Workload) -> Captured:
    embeddings, labels = work.make()

    def step() -> None:
        torch.autograd.grad(loss(embeddings, labels), embeddings)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return Captured(graph, embeddings, labels)


def _replay(captured: Captured) -> float:
    graph = captured.graph
    graph.replay()
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begun.record()
    for _ in range(REPLAYS):
        graph.replay()
    ended.record()
    ended.synchronize()
    return begun.elapsed_time(ended) / 1e3 / REPLAYS
