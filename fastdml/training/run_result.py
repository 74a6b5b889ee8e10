"""What a run found: the report and metrics.json are made from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fastdml.data import Split
from fastdml.data.dataset import Dataset
from fastdml.training.centers import CenterHistory
from fastdml.training.config import TrainConfig
from fastdml.training.distillation import LabelFindings
from fastdml.training.environment import Environment
from fastdml.training.evaluation import SplitRetrieval
from fastdml.training.fusion_panel import FusionPanel
from fastdml.training.records import FitOutcome


@dataclass
class RunResult:
    """Everything that a run found.

    Attributes:
        config: its settings.
        environment: machine and versions.
        dataset: what it was trained and judged on.
        train: the training images as training saw them, with planted noise.
        rows: Recall@K (K -> share) of "untrained", "trained" and, where images are small, "raw pixels"
            (of a data set of features "raw features").
        curve: (step, Recall@1) from step 0 on.
        outcome: how training ended.
        final: the evaluation of the trained network.
        embeddings: of the test split after training, float32 [N, D] on the CPU.
        parameters: trainable numbers of the network.
        world_size: processes that shared the work.
        memory: bytes by part: "network", "optimiser", "loss", and "one step", what training added at its peak
            beside them; the last only where it can be measured.
        time_by_part: median seconds of a step by part.
        centers: None where the loss has no classes of several centres.
        labels: None where no noise was planted and no teacher asked.
        panel: what fusing buys; None where it was not measured.
        seconds: by part of the run.
    """

    config: TrainConfig
    environment: Environment
    dataset: Dataset
    train: Split
    rows: dict[str, dict[int, float]]
    curve: list[tuple[int, float]]
    outcome: FitOutcome
    final: SplitRetrieval
    embeddings: Tensor
    parameters: int
    world_size: int = 1
    memory: dict[str, int] = field(default_factory=dict)
    time_by_part: dict[str, float] = field(default_factory=dict)
    centers: CenterHistory | None = None
    labels: LabelFindings | None = None
    panel: FusionPanel | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def raw(self) -> str | None:
        """The row of ``rows`` that needs no network, if it was made."""
        return next((name for name in ("raw pixels", "raw features") if name in self.rows), None)

    @property
    def test(self) -> Split:
        """The images that training never saw."""
        return self.dataset.test

    @property
    def status(self) -> str:
        """ "complete", "stopped by time", or "interrupted (SIGINT)"."""
        if self.outcome.stopped_by == "steps":
            return "complete"
        if self.outcome.stopped_by == "time":
            return "stopped by time"
        return f"interrupted ({self.outcome.stopped_by})"

    def to_dict(self) -> dict[str, Any]:
        """What metrics.json holds."""
        result = self.final.result
        return {
            "status": self.status,
            "steps": self.outcome.steps_taken,
            "replanned_by_time_limit": self.outcome.replanned,
            "recall": {
                name: {f"R@{k}": value for k, value in row.items()} for name, row in self.rows.items()
            },
            "r_precision": result.r_precision,
            "map_at_r": result.map_at_r,
            "mean_average_precision": result.mean_average_precision,
            "recall_at_1_curve": [{"step": step, "recall_at_1": value} for step, value in self.curve],
            "queries": result.queries,
            "queries_without_positive": result.queries_without_positive,
            "data": {"name": self.dataset.name, "layout": self.dataset.layout, "notes": self.dataset.notes},
            "parameters": self.parameters,
            "processes": self.world_size,
            "memory": self.memory,
            "time_by_part": self.time_by_part,
            "centers": self.centers.to_dict() if self.centers is not None else None,
            "labels": self.labels.to_dict() if self.labels is not None else None,
            "seconds": self.seconds,
            "fusion": self.panel.to_dict() if self.panel is not None else None,
            "environment": self.environment.to_dict(),
        }
