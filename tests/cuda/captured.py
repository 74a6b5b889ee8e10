"""A step captured in a CUDA graph, which it could not be if the host waited for the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def assert_replays(fill: Callable[[], None], step: Callable[[], Sequence[Tensor]], atol: float) -> None:
    """Fails unless the captured step gives what the step itself gives, on fresh numbers in the same memory.

    Args:
        fill: writes fresh numbers into what the step reads.
        step: its results.
        atol: how far they may be off, beside 1e-5 of each.
    """
    fill()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for _ in range(2):
        fill()
        graph.replay()
        for found, wanted in zip(captured, step(), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=atol)
