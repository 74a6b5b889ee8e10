"""The learning rate over a run, and how a limit in seconds becomes a number of steps."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import fmean

_SLOW_START = 3  # the first steps are slow and say nothing about the others
_WINDOW = 20  # steps whose mean time is the speed
_REPLAN_EVERY = 10  # steps
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

    The schedule is a function of steps, so that a run can be repeated. Where the measured speed says that a
    time limit cannot be kept, fewer steps are planned, so that the rate still comes down before the end
    instead of being cut off high. The plan is looked at again every few steps, and grows back towards what
    was asked for when the machine gets faster. A run whose plan was never changed is a function of its seed
    alone.

    Attributes:
        asked: steps that were asked for.
        seconds: time limit in seconds, or None.
        steps: steps that are planned now, at most ``asked``.
        replanned: whether the plan was ever changed.
    """

    asked: int
    seconds: float | None = None
    steps: int = field(init=False)
    replanned: bool = field(init=False, default=False)
    _recent: deque[float] = field(init=False, default_factory=lambda: deque(maxlen=_WINDOW))

    def __post_init__(self) -> None:
        self.steps = self.asked

    def observe(self, step: int, step_seconds: float, elapsed: float, reserved: float) -> None:
        """Take note of a step, the ``step``-th from 1, and plan anew if it is time to.

        Args:
            step_seconds: what this step took.
            elapsed: seconds since training began.
            reserved: seconds to keep free for the evaluations that are still to come.
        """
        if step > _SLOW_START:
            self._recent.append(step_seconds)
        if (
            self.seconds is None
            or step >= self.steps
            or step < _SLOW_START + _WINDOW // 2
            or step % _REPLAN_EVERY
        ):
            return
        left = _PLANNED_SHARE * self.seconds - reserved - elapsed
        affordable = step + int(left / fmean(self._recent))
        planned = max(min(affordable, self.asked), step + 1)
        self.replanned |= planned != self.steps
        self.steps = planned

    def out_of_time(self, elapsed: float) -> bool:
        """Whether the limit has passed, whatever was planned."""
        return self.seconds is not None and elapsed >= self.seconds
