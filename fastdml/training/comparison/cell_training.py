"""Train a loss with a seed, choose its checkpoint on held-out classes, measure that on the test classes."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fastdml.data import Split
from fastdml.retrieval import RetrievalResult, evaluate
from fastdml.training.backbones import make_network
from fastdml.training.catalogue import find_loss
from fastdml.training.comparison.cells import Cell
from fastdml.training.comparison.folder import ComparisonFolder
from fastdml.training.comparison.holdout import hold_out_classes, perturbed
from fastdml.training.comparison.protocol import Protocol
from fastdml.training.evaluation import KS, embed, retrieve
from fastdml.training.loop import fit
from fastdml.training.records import NonFiniteLossError, StepWatcher
from fastdml.training.run import RunDirectory
from fastdml.training.stopping import StopRequest


class NonFiniteEmbeddingsError(RuntimeError):
    """The network gave a NaN or an infinity for images that it was measured on."""


@dataclass(frozen=True)
class Setting:
    """What the cells of a comparison share: protocol, data, place and provenance."""

    protocol: Protocol
    train: Split
    test: Split
    device: torch.device
    folder: ComparisonFolder
    commit: str | None

    def parts(self, seed: int) -> tuple[Split, Split]:
        """(to train on, to validate on) for a seed; the same for all losses."""
        training, validation = hold_out_classes(self.train, self.protocol.validation_share, seed)
        return training, perturbed(validation, seed) if self.protocol.augment else validation


@dataclass
class _Checkpoints:
    """Keeps the weights of the best Recall@1 on the held-out classes; of equal ones, the last."""

    model: nn.Module
    validation: Split
    device: torch.device
    curve: list[tuple[int, float]] = field(default_factory=list)
    best_step: int = 0
    _best: float = -1.0
    _weights: dict[str, Tensor] = field(default_factory=dict)

    def take(self, step: int) -> None:
        found = retrieve(_embed(self.model, self.validation, self.device, step), self.validation)
        recall = found.result.recall[1]
        self.curve.append((step, recall))
        if recall >= self._best:
            self._best, self.best_step = recall, step
            self._weights = {name: value.clone() for name, value in self.model.state_dict().items()}

    def restore(self) -> None:
        self.model.load_state_dict(self._weights)


def train_cell(
    setting: Setting, name: str, seed: int, backend: str, watcher: StepWatcher, stop: StopRequest
) -> Cell | None:
    """The cell of a loss and a seed; a failed one where a number was not finite, None where ``stop`` came.

    Args:
        name: of the loss.
        backend: that computes it, for the record.
    """
    begun = time.perf_counter()
    config, entry, device = setting.protocol.config(name, seed), find_loss(name), setting.device
    training, validation = setting.parts(seed)
    curve: list[tuple[int, float]] = []
    best_step: int | None = None
    result: RetrievalResult | None = None
    failure: str | None = None
    with torch.random.fork_rng(), RunDirectory(setting.folder.log(name, seed), overwrite=True) as run:
        torch.manual_seed(seed)
        model = make_network(config, training).to(device)
        loss = entry.make(training.num_classes, config.embedding_dim).to(device)
        checkpoints = _Checkpoints(model, validation, device, curve)
        try:
            outcome = fit(model, loss, training, config, run, watcher, stop, checkpoints.take)
            if outcome.steps_taken < config.steps:
                return None
            checkpoints.take(outcome.steps_taken)
            checkpoints.restore()
            best_step = checkpoints.best_step
            result = _measure(model, setting, best_step)
        except (NonFiniteLossError, NonFiniteEmbeddingsError) as error:
            best_step = None
            failure = str(error).replace(f"{setting.folder.path}{os.sep}", "")
    return Cell(
        loss=name,
        seed=seed,
        samples_per_class=config.samples_per_class,
        center_rate=entry.center_rate,
        seconds=time.perf_counter() - begun,
        backend=backend,
        commit=setting.commit,
        validation=tuple(curve),
        best_step=best_step,
        recall=None if result is None else result.recall,
        nmi=None if result is None or result.clustering is None else result.clustering.nmi,
        failure=failure,
        settings=entry.settings,
    )


def _measure(model: nn.Module, setting: Setting, step: int) -> RetrievalResult:
    """The one look at the test classes."""
    test = setting.test
    return evaluate(
        _embed(model, test, setting.device, step),
        test.labels,
        KS,
        query=test.is_query,
        gallery=test.is_gallery,
        clusters=True,
        seed=setting.protocol.kmeans_seed,
    )


def _embed(model: nn.Module, split: Split, device: torch.device, step: int) -> Tensor:
    embeddings = embed(model, split, device)
    if not bool(torch.isfinite(embeddings).all()):
        raise NonFiniteEmbeddingsError(f"the embeddings after step {step} are not finite")
    return embeddings
