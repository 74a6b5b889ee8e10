"""The curves of a run for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from fastdml.training.config import ConfigError
from fastdml.training.progress import Display
from fastdml.training.records import StepRecord

FOLDER = "tensorboard"
_CURVES = {
    "loss": "train/loss",
    "gradient_norm": "train/gradient_norm",
    "learning_rate": "train/learning_rate",
    "images_per_second": "speed/images_per_second",
    "step_seconds": "speed/step_seconds",
    "loss_seconds": "speed/loss_seconds",
    "data_seconds": "speed/data_seconds",
    "network_seconds": "speed/network_seconds",
    "update_seconds": "speed/update_seconds",
    "memory_bytes": "memory/bytes",
}


class TensorBoardLog:
    """Writes what a run logs to ``<run>/tensorboard``; a context manager.

    Args:
        run: directory of the run.
        first_step: where a resumed run goes on. What stands there of this step and later ones, written by the
            run before it was stopped, is not shown any more.

    Raises:
        ConfigError: the package tensorboard is not installed.
    """

    def __init__(self, run: str | Path, first_step: int | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "tensorboard must be false here: it needs a package that is not installed; "
                "pip install 'fastdml[tensorboard]'"
            ) from error
        self._writer = SummaryWriter(str(Path(run) / FOLDER), purge_step=first_step)

    def on_step(self, record: StepRecord, steps: int) -> None:
        """Write the numbers of a step; ``steps`` is not used."""
        for name, tag in _CURVES.items():
            self._writer.add_scalar(tag, getattr(record, name), record.step)

    def on_evaluation(self, step: int, recall: Mapping[int, float]) -> None:
        """Write Recall@K (K -> share) after ``step`` steps, and hand all so far to the system."""
        for k, share in recall.items():
            self._writer.add_scalar(f"recall/at_{k}", share, step)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()

    def __enter__(self) -> TensorBoardLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class BoardDisplay:
    """A display whose numbers go to TensorBoard too."""

    def __init__(self, display: Display, board: TensorBoardLog) -> None:
        self.display, self.board = display, board

    def on_phase(self, text: str) -> None:
        """Shown."""
        self.display.on_phase(text)

    def on_note(self, text: str) -> None:
        """Shown."""
        self.display.on_note(text)

    def on_chunk(self, done: int, total: int) -> None:
        """Shown."""
        self.display.on_chunk(done, total)

    def on_step(self, record: StepRecord, steps: int) -> None:
        """Shown and written."""
        self.display.on_step(record, steps)
        self.board.on_step(record, steps)

    def on_evaluation(self, step: int, recall: Mapping[int, float]) -> None:
        """Shown and written."""
        self.display.on_evaluation(step, recall)
        self.board.on_evaluation(step, recall)

    def close(self) -> None:
        """Training is over; what comes after it is written too."""
        self.display.close()
