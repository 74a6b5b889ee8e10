"""What a contestant does when it is its turn: some steps in a row, clocked by direction."""

from __future__ import annotations

import gc
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Clocked = dict[str, float]
"""Seconds by direction."""
MOST_STEPS = 1000


class Turn(ABC):
    """One contestant at one size."""

    steps = 1

    @abstractmethod
    def step(self) -> Clocked:
        """One step, clocked."""

    def warm_up(self, least: float, slow: float) -> float:
        """Runs it until warm, chooses how many steps fill ``least`` seconds, returns a turn's seconds.

        A step of ``slow`` seconds or more is not repeated: what being the first costs is small beside it.
        """
        seconds = self._clock_step()
        if seconds < slow:
            seconds = min(self._clock_step() for _ in range(2 if seconds < slow / 10 else 1))
        self.steps = min(MOST_STEPS, max(1, math.ceil(least / max(seconds, 1e-9))))
        return seconds * self.steps

    def __call__(self) -> Clocked:
        total: Clocked = {}
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            for _ in range(self.steps):
                for direction, seconds in self.step().items():
                    total[direction] = total.get(direction, 0.0) + seconds
        finally:
            if was_enabled:
                gc.enable()
        return {direction: seconds / self.steps for direction, seconds in total.items()}

    def _clock_step(self) -> float:
        begun = time.perf_counter()
        self.step()
        return time.perf_counter() - begun


class TrainingTurn(Turn):
    """Forward and backward of a loss; on a GPU by events, with no wait between the two."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor], batch: tuple[Tensor, Tensor]) -> None:
        self.loss = loss
        self.embeddings, self.labels = batch

    def step(self) -> Clocked:
        try:
            forward, backward = self._on_gpu() if self.embeddings.is_cuda else self._on_cpu()
        finally:
            self.embeddings.grad = None
        return {"forward": forward, "backward": backward, "both": forward + backward}

    def _on_cpu(self) -> tuple[float, float]:
        start = time.perf_counter()
        loss = self.loss(self.embeddings, self.labels)
        middle = time.perf_counter()
        loss.backward()
        return middle - start, time.perf_counter() - middle

    def _on_gpu(self) -> tuple[float, float]:
        first, middle, last = (torch.cuda.Event(enable_timing=True) for _ in range(3))
        torch.cuda.synchronize()
        first.record()
        loss = self.loss(self.embeddings, self.labels)
        middle.record()
        loss.backward()
        last.record()
        last.synchronize()
        return first.elapsed_time(middle) / 1e3, middle.elapsed_time(last) / 1e3


class CallTurn(Turn):
    """A function that is only called, such as a retrieval metric, and returns to the host."""

    def __init__(self, function: Callable[[Tensor, Tensor], Any], batch: tuple[Tensor, Tensor]) -> None:
        self.function, self.batch = function, batch

    def step(self) -> Clocked:
        begun = time.perf_counter()
        self.function(*self.batch)
        return {"evaluate": time.perf_counter() - begun}
