"""The learning rate over a run, and how a limit in seconds becomes a number of steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

# The steps whose speed decides whether a time limit can be kept; the first ones are slow and do not count.
_PROBE_START, _PROBE_STOP = 3, 15
# Share of the time that is planned with; the rest absorbs a machine that slows down.
_PLANNED_SHARE = 0.92


def learning_rate_factor(step: int, steps: int, warmup_steps: int) -> float:
    """Factor on the peak rate at ``step`` (from 0): linear warm-up, then half a cosine down to nearly 0.

    A function of steps alone, never of the clock, so that a run can be repeated.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if steps <= warmup_steps:
        return 1.0
    progress = (step - warmup_steps) / (steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


@dataclass
class StepBudget:
    """How many steps a run takes.

    A schedule that followed the clock would make no two runs alike; one that ignores the clock would be cut
    off at a high rate where the machine is slow. So the number of steps is fixed, except that once, early and
    still within the warm-up, it is lowered if the measured speed says that the limit cannot be kept. The
    schedule is then laid out over the new number, which the run records: the same number given as ``steps``
    without a limit repeats the run.

    Attributes:
        asked: steps that were asked for.
        seconds: time limit in seconds, or None.
        steps: steps that will be taken; equal to ``asked`` unless lowered.
    """

    asked: int
    seconds: float | None = None
    steps: int = field(init=False)
    _probe_seconds: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.steps = self.asked

    def observe(self, step: int, elapsed: float, reserved: float) -> bool:
        """After ``step`` steps (from 1) and ``elapsed`` seconds, lower the number of steps if it must be.

        ``reserved`` seconds are kept free for evaluations. True where the number was lowered.
        """
        if self.seconds is None or step > _PROBE_STOP:
            return False
        if step == _PROBE_START:
            self._probe_seconds = elapsed
        if step < _PROBE_STOP:
            return False
        each = (elapsed - self._probe_seconds) / (_PROBE_STOP - _PROBE_START)
        affordable = step + int((_PLANNED_SHARE * self.seconds - reserved - elapsed) / each)
        if affordable >= self.steps:
            return False
        self.steps = max(affordable, step + 1)
        return True

    def out_of_time(self, elapsed: float) -> bool:
        """Whether the limit has passed, whatever was planned."""
        return self.seconds is not None and elapsed >= self.seconds
