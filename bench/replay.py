"""Shows interleaved samples in pytest-benchmark's table: a clock that runs only while they are replayed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any


class RecordedClock:
    """Reads the seconds replayed so far. Given to a test as ``@pytest.mark.benchmark(timer=clock)``."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def replay(self, benchmark: Any, samples: Sequence[float]) -> None:
        """Has pytest-benchmark take ``samples``, seconds, as the rounds of a test."""
        left: Iterator[float] = iter(samples)

        def play_one() -> None:
            self.now += next(left)

        benchmark.pedantic(play_one, rounds=len(samples))


clock = RecordedClock()
