"""A display that shows nothing: for processes that leave it to the first."""

from __future__ import annotations

from collections.abc import Mapping

from fastdml.training.records import StepRecord


class SilentDisplay:
    """Told everything, says nothing."""

    def on_phase(self, text: str) -> None:
        """Nothing."""

    def on_note(self, text: str) -> None:
        """Nothing."""

    def on_chunk(self, done: int, total: int) -> None:
        """Nothing."""

    def on_step(self, record: StepRecord, steps: int) -> None:
        """Nothing."""

    def on_evaluation(self, step: int, recall: Mapping[int, float]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
