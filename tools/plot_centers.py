"""Draw how many different centres SoftTriple keeps of 20, with its regulariser and without.

    python -m tools.plot_centers --out docs/figures

Trains the built-in network on the built-in glyphs with three weights tau of the regulariser, 0.2 being the
paper's, and counts the centres of every class on the way. Then merges them, and measures what that does: to
the share of training images whose class is the closest, and to Recall@1 on unseen classes after more training
with all centres and with the merged ones. Writes centers-count.json, and from it centers-count.svg and
centers-count-dark.svg; three minutes on two CPU cores. --redraw only draws.
"""

from __future__ import annotations

import argparse
import copy
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import matplotlib
import torch
from matplotlib.figure import Figure
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import nn

from bench import machine
from bench.figures import FONTS, write_svg
from fastdml.data import Augment, ClassBalancedBatchSampler, Split, glyphs
from fastdml.losses import SoftTripleLoss
from fastdml.training.backbones import make_network
from fastdml.training.batches import class_indices
from fastdml.training.centers import DELTAS, CenterHistory
from fastdml.training.config import TrainConfig
from fastdml.training.evaluation import embed, retrieve
from fastdml.training.loop import fit
from fastdml.training.records import StepRecord
from fastdml.training.run import RunDirectory
from fastdml.training.stopping import StopRequest

CONFIG = TrainConfig(
    loss="soft-triple-many-centres", steps=800, batch=64, samples_per_class=2, network_width=12,
    evaluations=31,
)  # fmt: skip
TAUS = (10.0, 0.2, 0.0)
MORE_STEPS = 150
"""Steps of training with all centres and with the merged ones, after the measured run."""
BATCHES = 50
"""Batches that gradients of centres are averaged over."""
CPU = torch.device("cpu")


class Look(NamedTuple):
    """Colours, readable on GitHub's background of that theme; one for each tau."""

    ink: str
    soft: str
    grid: str
    lines: tuple[str, str, str]


LOOKS = {
    "centers-count.svg": Look("#1f2328", "#59636e", "#d8dee4", ("#177245", "#0b4aa8", "#c2571a")),
    "centers-count-dark.svg": Look("#e6edf3", "#9198a1", "#30363d", ("#6fd09b", "#a8d0ff", "#f0975b")),
}


class Watcher:
    """Moves a progress bar."""

    def __init__(self, progress: Progress, task: Any) -> None:
        self._advance = partial(progress.advance, task)

    def on_step(self, record: StepRecord, steps: int) -> None:
        self._advance()

    def on_chunk(self, done: int, total: int) -> None:
        """Small batches have one."""

    def on_note(self, text: str) -> None:
        del text


def measure(config: TrainConfig, more_steps: int) -> dict[str, Any]:
    """What centers-count.json holds."""
    train, test = glyphs.load("train"), glyphs.load("test")
    total = len(TAUS) * config.steps + sum(map(bool, TAUS)) * (1 + len(DELTAS)) * more_steps
    columns = TextColumn("{task.description:<30}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns) as progress:
        task = progress.add_task("", total=total)
        runs = []
        for tau in TAUS:
            progress.update(task, description=f"tau {tau:g}")
            runs.append(_run(tau, config, more_steps, train, test, Watcher(progress, task)))
    settings = {name: value for name, value in config.to_dict().items() if name not in ("backend", "device")}
    return {
        "machine": machine.describe("cpu"), "settings": settings, "more_steps": more_steps, "runs": runs
    }  # fmt: skip


def _run(
    tau: float, config: TrainConfig, more_steps: int, train: Split, test: Split, watcher: Watcher
) -> dict[str, Any]:
    torch.manual_seed(config.seed)
    model = make_network(config, train)
    loss = SoftTripleLoss.preset(
        "many centres", num_classes=train.num_classes, embedding_size=config.embedding_dim, tau=tau
    )
    history = CenterHistory(loss)
    history.record(0)
    _train(model, loss, train, config, watcher, history)
    history.record(config.steps)
    history.draw(model, train, config.seed)
    found = {"tau": tau, **history.to_dict(), "recall_at_1": _recall_at_1(model, test)}
    if tau:
        found["gradients"] = _gradients(model, loss, train, config)
        found["merged"] = [
            _merged(delta, model, loss, config, more_steps, train, test, watcher) for delta in (None, *DELTAS)
        ]
    return found


def _gradients(model: nn.Module, loss: SoftTripleLoss, split: Split, config: TrainConfig) -> dict[str, float]:
    """What moves a centre, by the softmax and by the regulariser: gradients averaged over batches, the median
    length over the centres.
    """
    plain = copy.deepcopy(loss)
    plain.tau = 0.0
    sampler = ClassBalancedBatchSampler(
        split.labels, config.classes_per_batch, config.samples_per_class, config.seed + 1, BATCHES
    )
    embeddings, classes = embed(model, split, CPU), class_indices(split)
    plain.zero_grad()
    loss.zero_grad()
    for rows in sampler:
        for one in (plain, loss):
            (one(embeddings[rows], classes[rows]) / BATCHES).backward()
    softmax, both = plain.centers.grad, loss.centers.grad
    assert softmax is not None
    assert both is not None
    lengths = {"softmax": softmax.norm(dim=0), "regulariser": (both - softmax).norm(dim=0)}
    return {name: float(length.median()) for name, length in lengths.items()}


def _train(
    model: nn.Module,
    loss: nn.Module,
    split: Split,
    config: TrainConfig,
    watcher: Watcher,
    history: CenterHistory | None = None,
) -> None:
    with TemporaryDirectory() as folder, RunDirectory(folder) as run:
        record = (lambda step: None) if history is None else history.record
        fit(model, loss, split, config, run, watcher, StopRequest(), record)


def _merged(
    delta: float | None,
    model: nn.Module,
    loss: SoftTripleLoss,
    config: TrainConfig,
    more_steps: int,
    train: Split,
    test: Split,
    watcher: Watcher,
) -> dict[str, Any]:
    """The loss with its centres merged by a delta, None for none: at once, and after more training."""
    network = make_network(config, train)
    network.load_state_dict(model.state_dict())
    kept = copy.deepcopy(loss) if delta is None else loss.merge_centers(delta)
    found = {
        "delta": delta,
        "centers": kept.layout.total,
        "training_accuracy": _training_accuracy(network, kept, train, config.seed),
    }
    more = replace(config, steps=more_steps, evaluations=0, seed=config.seed + 1)
    _train(network, kept, train, more, watcher)
    return {**found, "recall_at_1_after_more_steps": _recall_at_1(network, test)}


def _recall_at_1(model: nn.Module, split: Split) -> float:
    return retrieve(embed(model, split, CPU), split).result.recall[1]


@torch.inference_mode()
def _training_accuracy(model: nn.Module, loss: SoftTripleLoss, split: Split, seed: int) -> float:
    """Share of the training images, perturbed anew, to which their own class is the most similar."""
    model.eval()
    generator = torch.Generator().manual_seed(seed + 1)
    augment, classes = Augment(), class_indices(split)
    right = 0
    for rows in torch.arange(len(split)).split(200):
        embeddings = model(augment(split.batch(rows), generator))
        right += int((loss.class_similarities(embeddings).argmax(dim=1) == classes[rows]).sum())
    return right / len(split)


def draw(look: Look, found: dict[str, Any]) -> Figure:
    """Mean number of different centres over the steps: a colour a tau, a dash a delta."""
    figure = Figure(figsize=(7.6, 3.7))
    figure.subplots_adjust(left=0.07, right=0.75, top=0.87, bottom=0.14)
    axes = figure.add_subplot()
    ends = []
    for run, colour in zip(found["runs"], look.lines, strict=True):
        for one, dash in zip(run["counts"], ("-", (0, (4, 1.6))), strict=True):
            steps = [point["step"] for point in one["curve"]]
            means = [point["mean"] for point in one["curve"]]
            axes.plot(steps, means, color=colour, linestyle=dash, linewidth=2.2)
            ends.append((means[-1], f"τ {run['tau']:g}, δ {one['delta']:g}: {means[-1]:.1f}", colour))
    place = -1e9
    for value, text, colour in sorted(ends):
        place = max(place + 1.3, value)
        axes.text(1.015, place, text, color=colour, fontsize=10, fontweight="bold", va="center",
                  transform=axes.get_yaxis_transform())  # fmt: skip
    axes.set_xlim(0, found["settings"]["steps"])
    axes.set_ylim(0, found["runs"][0]["per_class"] * 1.04)
    axes.locator_params(axis="y", integer=True, nbins=5)
    axes.grid(True, axis="y", color=look.grid, linewidth=0.8)
    axes.tick_params(colors=look.soft, labelsize=9.5, length=0, pad=5)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_facecolor("none")
    axes.set_xlabel("step", color=look.soft, fontsize=10)
    axes.set_title("Different centres a class, mean", color=look.ink, fontsize=12, fontweight="bold",
                   loc="left", pad=12)  # fmt: skip
    return figure


def write_figures(folder: Path, found: dict[str, Any]) -> None:
    """Writes the figure for light and for dark pages."""
    for name, look in LOOKS.items():
        with matplotlib.rc_context(FONTS):
            write_svg(draw(look, found), folder / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=CONFIG.steps, help="fewer, for a look")
    parser.add_argument("--more-steps", type=int, default=MORE_STEPS)
    parser.add_argument("--redraw", action="store_true", help="draw what was measured before")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / "centers-count.json"
    if not asked.redraw:
        found = measure(replace(CONFIG, steps=asked.steps), asked.more_steps)
        path.write_text(json.dumps(found, indent=1) + "\n")
    write_figures(asked.out, json.loads(path.read_text()))


if __name__ == "__main__":
    main()
