"""Recall@1 against the size of the batch, at a fixed number of images.

    fastdml data make glyphs-large --out glyphs-large
    python -m tools.batch_study --data glyphs-large --out docs/figures
    python -m tools.batch_study --data glyphs-large --device cuda --precision bf16 --forms fastdml,dense

Every run goes on from the same network, which a short training with small batches has made, and sees the same
number of images; what differs is how many of them a step compares with each other. Multi-Similarity with
mining, 16 images a class, cached gradients in chunks of one size (a smaller batch is one chunk), one learning
rate for all. Where 16 of all classes do not fill a batch, there are 32 of a class in it, or 64: a class with
fewer images repeats them, and every repetition is perturbed anew. Batches of more than twice the images of
the set are left out.

With several forms every batch is trained by each, "fastdml" by the fused loss, "dense" by plain PyTorch that
holds the matrix of all pairs: from the same start, with the same images in the same chunks. Where one runs
out of memory, its row says so, and no larger batch of it is tried.

Every finished run is kept under --runs and is not repeated; an interrupted one goes on. Writes NAME.json
after every run, and the figure at the end.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench import machine
from bench.results import write_whole
from fastdml.training.config import TrainConfig
from fastdml.training.datasets import open_dataset
from fastdml.training.experiment import run_experiment
from fastdml.training.large_step import PRECISIONS, ChunkMemoryError, is_out_of_memory
from fastdml.training.loss_work import LossWork
from fastdml.training.memory_use import peak_memory, start_counting
from fastdml.training.progress import make_display
from fastdml.training.run_setup import chosen_backend, find_device
from tools.batch_study_figure import Row, fits, write_figures

FORMS = {"fastdml": None, "dense": "reference"}
"""Of the loss, with the backend of each; retrieval is exact under all of them."""
ROW = "row.json"
"""What the study keeps of a run, beside it."""
PER_CLASS = 16
MOST_SHOWN = 2
"""How often a batch may show an image of the set, on average."""


class Scale(NamedTuple):
    """What is measured on a kind of device unless something else is asked for."""

    batches: tuple[int, ...]
    chunk: int
    """On a GPU larger: there a chunk of 256 takes as long as one of 1,024, the time to launch its kernels."""

    @property
    def budget(self) -> int:
        """Images of a run: 20 steps of the largest batch."""
        return 20 * self.batches[-1]


SCALES = {
    "cpu": Scale(tuple(1 << power for power in range(8, 15)), chunk=256),
    "cuda": Scale(tuple(1 << power for power in range(8, 17)), chunk=1024),
}


@dataclass(frozen=True)
class Study:
    """What all runs share; ``start_steps`` of 256 images make the network that they begin with."""

    data: str
    budget: int
    width: int = 16
    rate: float = 5e-3
    device: str = "auto"
    precision: str = "fp32"
    chunk: int = 256
    start_steps: int = 512

    def config(
        self,
        batch: int,
        steps: int,
        per_class: int,
        seed: int,
        weights: str | None = None,
        backend: str | None = None,
    ) -> TrainConfig:
        """The settings of a run."""
        return TrainConfig(
            data=self.data,
            weights=weights,
            batch=batch,
            chunk=min(self.chunk, batch),
            steps=steps,
            samples_per_class=per_class,
            repeat_images=per_class > PER_CLASS,
            network_width=self.width,
            learning_rate=self.rate,
            warmup_steps=max(1, steps // 20),
            evaluations=1,
            checkpoint_every=max(1, steps // 10),
            seed=seed,
            backend=backend,
            device=self.device,
            precision=self.precision,
        )


def per_class(batch: int, classes: int) -> int:
    """Images of a class in a batch: 16, doubled until the classes suffice."""
    count = PER_CLASS
    while batch > count * classes:
        count *= 2
    return count


def run(config: TrainConfig, out: Path) -> dict[str, Any]:
    """What metrics.json of a run holds; one that is complete is read."""
    _refuse_other(config, out)
    path = out / "metrics.json"
    if not (path.exists() and json.loads(path.read_text())["status"] == "complete"):
        run_experiment(
            config, out, make_display(), resume=out.exists(), panel_seconds=0,
            write_report=lambda result, directory: None,
        )  # fmt: skip
    found: dict[str, Any] = json.loads(path.read_text())
    if found["status"] != "complete":
        raise SystemExit(f"{out}: {found['status']}; the same command goes on")
    return found


def row_of(config: TrainConfig, out: Path, known: Row) -> Row:
    """``known`` with what the run in ``out`` finds, or that it does not fit; read where it is kept there."""
    _refuse_other(config, out)
    kept = out / ROW
    if kept.exists():
        row: Row = json.loads(kept.read_text())
        return row
    found: dict[str, Any] | None = None
    message = ""
    try:
        found = run(config, out)
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, ChunkMemoryError) or is_out_of_memory(error)):
            raise
        message = f"{error}".partition("\n")[0]
    if found is None:
        gc.collect()  # only now: the error kept alive what had been computed
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        row = {**known, "status": "does not fit", "message": message}
    else:
        seconds = found["time_by_part"]
        row = {
            **known,
            "status": "complete",
            "recall": found["recall"]["trained"],
            "map_at_r": found["map_at_r"],
            "training_seconds": found["seconds"]["training"],
            "step_seconds": seconds,
            "share_of_loss": seconds["loss"] / sum(seconds.values()),
            "step_bytes": found["memory"].get("one step"),
            "loss_bytes": loss_bytes(config),
        }
    write_whole(kept, json.dumps(row, indent=1) + "\n")
    return row


def _refuse_other(config: TrainConfig, out: Path) -> None:
    """A run that is kept must be the one that is asked for."""
    path = out / "config.json"
    if path.exists() and TrainConfig.read(path) != config:
        raise SystemExit(f"{out} holds a run of other settings: --runs must be another folder")


def loss_bytes(config: TrainConfig) -> int | None:
    """Bytes that the loss of a run adds by itself, forward and backward; None where they are not known."""
    device = find_device(config.device)
    work = LossWork(config.loss, config.embedding_dim, config.samples_per_class, 1, config.loss_options)
    points, labels = work.batch(config.batch, device)
    embeddings = points.detach().to(PRECISIONS[config.precision] or torch.float32).requires_grad_()
    loss = work.make(device)
    with chosen_backend(config.backend):
        before = start_counting(device)
        loss(embeddings, labels).backward()
    return peak_memory(device) - before if before else None


def measure(
    study: Study,
    folder: Path,
    batches: Sequence[int],
    seeds: int = 1,
    forms: Sequence[str] = ("fastdml",),
    seconds: float = math.inf,
    keep: Callable[[dict[str, Any]], None] = lambda found: None,
) -> dict[str, Any]:
    """What NAME.json holds.

    Args:
        folder: of the runs.
        batches: ascending.
        forms: names of ``FORMS``.
        seconds: after these no run is begun.
        keep: told after every run what there is.
    """
    begun = time.monotonic()
    train = open_dataset(TrainConfig(data=study.data)).train
    rows: list[Row] = []
    found = {
        "contest": "batch_study",
        "machine": machine.describe(find_device(study.device).type),
        "settings": {
            **vars(study),
            "data": Path(study.data).name,
            "samples_per_class": PER_CLASS,
            "forms": list(forms),
        },
        "runs": rows,
    }
    too_large: dict[str, int] = {}
    for seed in range(seeds):
        start = folder / f"start-{seed}"
        first = run(study.config(256, study.start_steps, PER_CLASS, seed), start)
        for batch, form in product(batches, forms):
            out = folder / (f"{batch}-{seed}" if form == "fastdml" else f"{batch}-{seed}-{form}")
            if batch >= too_large.get(form, batch + 1):
                continue
            if batch > MOST_SHOWN * len(train):
                _say(f"{form}, {batch}: left out, {study.data} has {len(train)} images to train on")
                continue
            if time.monotonic() - begun > seconds and not (out / ROW).exists():
                _say(f"{form}, {batch}: left out, {seconds:g} s are over; the same command goes on")
                continue
            _say(f"{form}, {batch} images a step, seed {seed}")
            steps, count = study.budget // batch, per_class(batch, train.num_classes)
            config = study.config(batch, steps, count, seed, str(start / "weights.safetensors"), FORMS[form])
            known = {
                "form": form,
                "batch": batch,
                "seed": seed,
                "steps": steps,
                "samples_per_class": count,
                "start_recall_at_1": first["recall"]["trained"]["R@1"],
            }
            rows.append(row_of(config, out, known))
            if not fits(rows[-1]):
                _say(f"{form}, {batch}: {rows[-1]['message']}")
                too_large[form] = batch
            keep(found)
    return found


def _say(text: str) -> None:
    print(text, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", help="folder of glyphs-large, or glyphs: those built in")
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    parser.add_argument("--name", default="batch-study", help="of what is written there")
    parser.add_argument("--runs", type=Path, default=Path("runs/batch-study"))
    parser.add_argument("--forms", default="fastdml", help=f"of {','.join(FORMS)}, with commas between them")
    parser.add_argument("--batches", help="with commas between them (default: by the device)")
    parser.add_argument("--budget", type=int, help="images of every run (default: 20 of the largest batches)")
    parser.add_argument("--chunk", type=int, help="images at once (default: by the device)")
    parser.add_argument("--start-steps", type=int, default=Study.start_steps, help="that all begin with")
    parser.add_argument("--width", type=int, default=Study.width, help="of the network")
    parser.add_argument("--rate", type=float, default=Study.rate)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--seconds", type=float, default=math.inf, help="after these no run is begun")
    parser.add_argument("--redraw", action="store_true", help="draw what was measured before")
    asked = parser.parse_args(arguments)
    path = asked.out / f"{asked.name}.json"
    if not asked.redraw:
        if asked.data is None:
            parser.error("--data is needed, the folder that `fastdml data make glyphs-large` made")
        scale = SCALES[find_device(asked.device).type]
        batches = sorted(map(int, asked.batches.split(","))) if asked.batches else scale.batches
        forms = asked.forms.split(",")
        if unknown := set(forms) - set(FORMS):
            parser.error(f"--forms must be of {', '.join(FORMS)}, got {', '.join(sorted(unknown))}")
        study = Study(
            asked.data,
            asked.budget or scale.budget,
            asked.width,
            asked.rate,
            asked.device,
            asked.precision,
            asked.chunk or scale.chunk,
            asked.start_steps,
        )
        measure(
            study, asked.runs, batches, asked.seeds, forms, asked.seconds,
            lambda found: write_whole(path, json.dumps(found, indent=1) + "\n"),
        )  # fmt: skip
    if not path.exists():
        parser.exit(1, f"{path} is not there: no run was made\n")
    write_figures(asked.out, asked.name, json.loads(path.read_text()))


if __name__ == "__main__":
    main()
