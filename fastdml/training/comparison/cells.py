"""One cell of a comparison: a loss trained once, with one seed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fastdml.training.config import ConfigError


@dataclass(frozen=True)
class Cell:
    """What training one loss with one seed came to.

    Attributes:
        loss: a name of the loss catalogue.
        seed: of the held-out classes, the initial weights, the batches and the augmentation.
        samples_per_class: images of each class in a batch, of the catalogue.
        center_rate: rate of the loss's centres over that of the network, of the catalogue; None: no centres.
        seconds: of training, validation and test together.
        backend: that computed the loss.
        commit: of the package, where it is known.
        validation: (step, Recall@1 on the held-out classes), in order.
        best_step: the step whose weights were kept.
        recall: K -> Recall@K of those weights on the test classes; None where the cell failed.
        nmi: likewise; None where the cell failed.
        failure: why there is no result, or None.
        settings: of the loss, as the catalogue had them.
    """

    loss: str
    seed: int
    samples_per_class: int
    center_rate: float | None
    seconds: float
    backend: str
    commit: str | None
    validation: tuple[tuple[int, float], ...] = ()
    best_step: int | None = None
    recall: dict[int, float] | None = None
    nmi: float | None = None
    failure: str | None = None
    settings: str | None = None

    @property
    def name(self) -> str:
        """That of its file: loss-seed."""
        return f"{self.loss}-{self.seed}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **asdict(self),
            "validation": [{"step": step, "recall_at_1": value} for step, value in self.validation],
            "recall": None if self.recall is None else {f"R@{k}": v for k, v in self.recall.items()},
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Cell:
        """The cell that ``to_dict`` wrote; anything else raises ConfigError."""
        try:
            curve = tuple((int(at["step"]), float(at["recall_at_1"])) for at in values["validation"])
            recall = values["recall"]
            if recall is not None:
                recall = {int(name.removeprefix("R@")): float(value) for name, value in recall.items()}
            return cls(**{**values, "validation": curve, "recall": recall})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"a cell must hold the fields of a Cell: {error!r}") from error
