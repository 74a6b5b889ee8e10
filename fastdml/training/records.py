"""What a training tells of itself: its steps, how it ended, and who is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient was NaN or infinite.

    The batch is saved, and the parameters are those of the step before ``step``.
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


@dataclass(frozen=True)
class StepRecord:
    """One line of log.jsonl.

    Attributes:
        step: from 1.
        loss: of the whole batch.
        learning_rate: of the network.
        gradient_norm: of the network, over all of its parameters.
        step_seconds: of this step, waiting for images included.
        loss_seconds: in the loss, forward and backward.
        data_seconds: waiting for images.
        network_seconds: in the network, forward and backward.
        update_seconds: exchanging gradients and updating.
        images: of this step, of all processes.
        images_per_second: of this step.
        memory_bytes: the most that was in use so far: of the device's memory on a GPU, of the process on a
            CPU; 0 where it is not known.
        seconds: since training began, evaluations included.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    step_seconds: float
    loss_seconds: float
    data_seconds: float
    network_seconds: float
    update_seconds: float
    images: int
    images_per_second: float
    memory_bytes: int
    seconds: float


class StepWatcher(Protocol):
    """Who is told about a running training."""

    def on_chunk(self, done: int, total: int) -> None:
        """So many chunks of a step have gone through the network."""

    def on_step(self, record: StepRecord, steps: int) -> None:
        """A step of ``steps`` was made."""

    def on_note(self, text: str) -> None:
        """Something that a person should know."""


class StepLog(Protocol):
    """Where steps are written down; :class:`fastdml.training.run.RunDirectory` is one."""

    @property
    def failed_batch(self) -> Path:
        """Path of the batch whose loss was not finite."""

    def log_step(self, record: dict[str, Any]) -> None:
        """Add a line."""


@dataclass(frozen=True)
class FitOutcome:
    """How training ended.

    ``stopped_by`` is "steps", "time" or the name of a signal; ``replanned`` says that a time limit changed
    the schedule on the way, so that the settings alone do not repeat the run; ``seconds`` counts evaluations;
    ``memory`` is in bytes by part: "network", "optimiser", "loss", and, where it can be measured, "one step":
    what training added to these and to what was there before at its peak.
    """

    steps_taken: int
    stopped_by: str
    replanned: bool
    seconds: float
    memory: dict[str, int] = field(default_factory=dict)
