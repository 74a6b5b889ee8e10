"""All cells of a comparison: what is to do, in which order, and what is left when it is cut short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from fastdml.data import Split
from fastdml.retrieval import MissingPackageError, evaluate
from fastdml.training.batches import check_batch
from fastdml.training.catalogue import find_dataset, find_loss
from fastdml.training.comparison.cell_training import Setting, train_cell
from fastdml.training.comparison.cells import Cell
from fastdml.training.comparison.display import ComparisonDisplay
from fastdml.training.comparison.folder import ComparisonFolder
from fastdml.training.comparison.protocol import Protocol, commit
from fastdml.training.comparison.results import write_results
from fastdml.training.config import ConfigError
from fastdml.training.environment import backend_of
from fastdml.training.loss_work import LossWork
from fastdml.training.run_setup import chosen_backend, find_device
from fastdml.training.stopping import StopRequest

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """How a comparison ended: all cells of its folder, how many are to come, the signal that ended it."""

    cells: list[Cell]
    to_come: int
    signal_name: str | None


def compare(
    protocol: Protocol,
    losses: Sequence[str],
    seeds: Sequence[int],
    out: str | Path,
    display: ComparisonDisplay,
    *,
    overwrite: bool = False,
) -> Outcome:
    """Train and measure every loss with every seed, and leave cells, table, figure and page in ``out``.

    All losses come at the first seed, then all at the second, so that a comparison that is cut short is
    fair. Cells that are there already are kept. SIGINT and SIGTERM end it after the current step: the cell
    that is not finished is dropped, the results are written from those that are.

    Args:
        losses: names of the loss catalogue.
        seeds: each at least 0.
        out: a new folder, or that of a comparison under the same protocol, which goes on.
        overwrite: remove a comparison that is in ``out`` first.

    Raises:
        ConfigError: a setting that cannot work, or ``out`` holds a comparison under another protocol.
        BackendError: the backend that was asked for cannot compute one of the losses here.
        MissingPackageError: what NMI needs is not installed. After any of these, nothing was written.
    """
    losses, seeds = _distinct("losses", losses), _distinct("seeds", seeds)
    for name in losses:
        protocol.config(name, min(seeds))  # what cannot work is refused before anything is loaded
    _check_clustering()
    with StopRequest() as stop, chosen_backend(protocol.backend):
        setting, backends = _prepare(protocol, losses, seeds, ComparisonFolder(out), overwrite)
        to_do = _to_do(setting.folder.cells(), losses, seeds)
        total = len(losses) * len(seeds)
        display.begin(total - len(to_do), total)
        try:
            finished = _train(setting, to_do, backends, display, stop)
        finally:
            display.close()
        to_come = len(to_do) - finished
        write_results(setting.folder, to_come)
        return Outcome(setting.folder.cells(), to_come, stop.signal_name)


def _prepare(
    protocol: Protocol, losses: Sequence[str], seeds: Sequence[int], folder: ComparisonFolder, overwrite: bool
) -> tuple[Setting, dict[str, str]]:
    """What the cells share, and the backend of each loss; the folder is open once all is known to work."""
    dataset, device = find_dataset(protocol.data), find_device(protocol.device)
    setting = Setting(protocol, dataset.load("train"), dataset.load("test"), device, folder, commit())
    for seed in seeds:
        training, validation = setting.parts(seed)
        for name in losses:
            check_batch(protocol.config(name, seed), training)
    backends = {name: _backend_of(name, protocol, training, device) for name in losses}
    classes = {
        "training": training.num_classes,
        "validation": validation.num_classes,
        "test": setting.test.num_classes,
    }
    folder.start(protocol.header(device, classes), overwrite)
    return setting, backends


def _train(
    setting: Setting,
    to_do: Sequence[tuple[str, int]],
    backends: Mapping[str, str],
    display: ComparisonDisplay,
    stop: StopRequest,
) -> int:
    """Make the cells in order until ``stop`` comes; returns how many were made."""
    for number, (name, seed) in enumerate(to_do):
        if stop.asked:
            return number
        display.on_cell(name, seed)
        cell = train_cell(setting, name, seed, backends[name], display, stop)
        if cell is None:
            return number
        setting.folder.keep(cell)
        display.on_cell_done(cell)
    return len(to_do)


def _distinct(name: str, values: Sequence[T]) -> list[T]:
    if not values:
        raise ConfigError(f"{name} must name at least one, got none")
    return list(dict.fromkeys(values))


def _check_clustering() -> None:
    """Ask for the clusters of four points: what is missing is told before hours of training."""
    try:
        evaluate(torch.eye(4), torch.tensor([0, 0, 1, 1]), (1,), clusters=True)
    except MissingPackageError as error:
        raise MissingPackageError(f"a comparison measures NMI, and {error}") from error


def _backend_of(name: str, protocol: Protocol, training: Split, device: torch.device) -> str:
    samples = find_loss(name).samples_per_class
    work = LossWork(name, protocol.embedding_dim, samples, training.num_classes)
    with torch.random.fork_rng():
        return backend_of(work.make(device), *work.batch(protocol.batch, device))[0]


def _to_do(cells: Sequence[Cell], losses: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, int]]:
    """The cells to come, all losses at a seed before the next seed.

    Raises:
        ConfigError: the catalogue has changed since a cell of one of the losses was made.
    """
    for cell in cells:
        if cell.loss not in losses:
            continue
        now = find_loss(cell.loss).settings
        if cell.settings != now:
            raise ConfigError(
                f"{cell.loss} must be as in the cells that are there, {cell.settings}, got {now} (overwrite "
                "starts anew)"
            )
    done = {(cell.loss, cell.seed) for cell in cells}
    return [(name, seed) for seed in seeds for name in losses if (name, seed) not in done]
