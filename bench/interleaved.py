"""Fair timing: contestants take turns in one process, the order rotates every round, and medians are kept."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

import torch

from bench.turns import Turn


@dataclass(frozen=True)
class Protocol:
    """How long, how often.

    Attributes:
        least_rounds: rounds of every contestant but the slow.
        most_rounds: of the fast.
        seconds: about what a contestant may take at one size beyond its least rounds.
        slow: seconds a step from which a contestant is slow.
        slow_rounds: rounds of the slow.
        turn: seconds that a turn lasts at least: a short step is repeated in it, their mean is a sample.
    """

    least_rounds: int = 5
    most_rounds: int = 25
    seconds: float = 1.0
    slow: float = 3.0
    slow_rounds: int = 3
    turn: float = 0.01

    def rounds(self, seconds_a_turn: float) -> int:
        """How many rounds a contestant takes part in."""
        if seconds_a_turn >= self.slow:
            return self.slow_rounds
        wanted = int(self.seconds / max(seconds_a_turn, 1e-9))
        return min(self.most_rounds, max(self.least_rounds, wanted))

    def __str__(self) -> str:
        return (
            "one process, contestants in turn, order rotated each round, after warm-up steps at this size; "
            f"{self.least_rounds} to {self.most_rounds} rounds, {self.slow_rounds} from {self.slow:g} s on; "
            f"a step shorter than {self.turn * 1e3:g} ms is repeated in its turn and averaged; "
            "p20, p50, p80 over rounds"
        )


BROKEN_OFF = 3
"""Exit status of a command that has more to do than there was time for; the same command goes on."""
SHORT = Protocol(most_rounds=15, seconds=0.3, slow=1.5, turn=0.005)
"""For a GPU: its time is dear, and events are steadier than a host clock."""
TINY = Protocol(least_rounds=2, most_rounds=3, seconds=0.05, slow=0.5, slow_rounds=2, turn=0.0)


@dataclass
class Outcome:
    """What a contestant did at one size: seconds a step in every round, by direction, or why none."""

    status: str = "ok"
    seconds: dict[str, list[float]] = field(default_factory=dict)


def interleave(makers: Mapping[str, Callable[[], Turn]], protocol: Protocol) -> dict[str, Outcome]:
    """Times every contestant. What one raises becomes its status, and the others go on."""
    outcomes = {name: Outcome() for name in makers}
    turns: dict[str, Turn] = {}
    rounds: dict[str, int] = {}
    for name, make in makers.items():
        with _Verdict(outcomes[name]):
            turn = make()
            rounds[name] = protocol.rounds(turn.warm_up(protocol.turn, protocol.slow))
            turns[name] = turn
    gc.collect()
    gc.freeze()  # what lives now is not looked through again in every round
    try:
        for number in range(max(rounds.values(), default=0)):
            for name in rotated(list(turns), number):
                if number < rounds[name] and outcomes[name].status == "ok":
                    with _Verdict(outcomes[name]):
                        for direction, seconds in turns[name]().items():
                            outcomes[name].seconds.setdefault(direction, []).append(seconds)
            gc.collect()
    finally:
        gc.unfreeze()
    return outcomes


def rotated(names: Sequence[str], number: int) -> list[str]:
    """The order of a round: over as many rounds as there are names, each comes first once."""
    start = number % len(names) if names else 0
    return [*names[start:], *names[:start]]


def quantiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """p20, p50 and p80, interpolated."""
    if len(samples) == 1:
        return samples[0], samples[0], samples[0]
    fifths = statistics.quantiles(samples, n=5, method="inclusive")
    return fifths[0], statistics.median(samples), fifths[-1]


def status_of(error: BaseException) -> str:
    """What the row of a failed contestant says."""
    text = str(error).strip()
    # The CPU allocator raises a bare RuntimeError.
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text:
        return "out of memory"
    first = (text.splitlines() or [""])[0]
    return f"error: {type(error).__name__}: {first}"[:160]


class _Verdict:
    """Turns an exception into a status, and lets go of what the failed step held."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self.outcome.status = status_of(error)
        self.outcome.seconds.clear()
        error.__traceback__ = None  # its frames hold tensors
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return True
