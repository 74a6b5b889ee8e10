"""The learning rate over a run, and how a limit in seconds becomes a number of steps."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

_SLOW_START = 3  # the first steps are slow and say nothing about the others
_WINDOW = 20  # steps whose mean time is the speed
_REPLAN_EVERY = 10  # steps
# Share of the time that is planned with; the rest absorbs a machine that slows down.
_PLANNED_SHARE = 0.92


@dataclass(frozen=True)
class RateSchedule:
    """The learning rate over a run, as a factor on its peak; of steps alone, never of the clock.

    Attributes:
        shape: "cosine" (half a wave, down to nearly 0), "constant", or "step" (falls by ``decay_factor``
            every ``decay_every`` steps).
        warmup_steps: over which the rate rises linearly from 0 first.
        decay_every: see ``shape``.
        decay_factor: see ``shape``.
    """

    shape: str = "cosine"
    warmup_steps: int = 0
    decay_every: int = 1000
    decay_factor: float = 0.1

    def factor(self, step: int, steps: int) -> float:
        """At ``step``, from 0, of ``steps``."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.shape == "step":
            return self.decay_factor ** (step // self.decay_every)
        if self.shape == "constant" or steps <= self.warmup_steps:
            return 1.0
        progress = (step - self.warmup_steps) / (steps - self.warmup_steps)
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

    def state_dict(self) -> dict[str, Any]:
        """The plan; the speed is measured anew."""
        return {"steps": self.steps, "replanned": self.replanned, "seconds": self.seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a plan; where the limit is another one now, plan anew from all steps."""
        self.replanned = bool(state["replanned"])
        self.steps = int(state["steps"]) if state["seconds"] == self.seconds else self.asked

    def out_of_time(self, elapsed: float) -> bool:
        """Whether the limit has passed, whatever was planned."""
        return self.seconds is not None and elapsed >= self.seconds
