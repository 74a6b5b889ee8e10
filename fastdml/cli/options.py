"""The options of the commands, described once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from fastdml.training.catalogue import DATASETS, LOSSES, DatasetEntry, LossEntry
from fastdml.training.config_checks import CHOICES


def _loss(name: str) -> str:
    return _list(LOSSES) if name == "help" else name


def _data(name: str) -> str:
    return _list(DATASETS) if name == "help" else name


def _list(table: Mapping[str, DatasetEntry | LossEntry]) -> NoReturn:
    width = max(map(len, table))
    for known, entry in table.items():
        typer.echo(f"{known:<{width}}  {entry.about}")
    raise typer.Exit


def _choice(name: str) -> str:
    return f"One of {', '.join(CHOICES[name])}."


# What is trained on.
Data = Annotated[
    str, typer.Option(help="Data set: a name (`help` lists them), or the path of one.", callback=_data)
]
BuiltInData = Annotated[str, typer.Option(help="Data set; `help` lists them.", callback=_data)]
Layout = Annotated[str, typer.Option(help="How the files of --data lie; `auto` finds out.")]
ImageSize = Annotated[
    str | None,
    typer.Option(help="Side of the images, or height and width as 256x128; of files 224 by default."),
]
Fit = Annotated[
    str,
    typer.Option(help="How images come to their size: cut in the middle (crop) or scaled (stretch)."),
]
OnUnreadable = Annotated[
    str, typer.Option(help="An image that cannot be read stops the run (stop) or is left out (skip).")
]
Workers = Annotated[
    int | None, typer.Option(help="Processes that read images; by default one a core but one, at most 8.")
]
Augment = Annotated[bool, typer.Option("--augment/--no-augment", help="Perturb the training images.")]

# The loss and its batches.
Loss = Annotated[str, typer.Option(help="Loss; `help` lists them.", callback=_loss)]
Memory = Annotated[
    int, typer.Option(help="Embeddings of past batches that a pair loss compares with too; 0: none.")
]
Batch = Annotated[int, typer.Option(help="Images a step, over all processes.")]
Chunk = Annotated[
    int | None,
    typer.Option(help="Images that go through the network at once; by default all of a step."),
]
SamplesPerClass = Annotated[
    int | None,
    typer.Option(help="Images of each class in a batch; by default what suits the loss.", show_default=False),
]
RepeatImages = Annotated[
    bool,
    typer.Option("--repeat-images", help="Classes with fewer images than a batch has of each repeat theirs."),
]

# The network.
Network = Annotated[
    str,
    typer.Option(
        help="small, head, efficientnet-lite0, timm:NAME, or MODULE:NAME of anything that makes one."
    ),
]
Weights = Annotated[str | None, typer.Option(help="Safetensors file that the network starts from.")]
Freeze = Annotated[str, typer.Option(help=f"What does not learn. {_choice('freeze')}")]
EmbeddingDim = Annotated[int, typer.Option(help="Width of the embedding.")]
NetworkWidth = Annotated[int, typer.Option(help="Channels of the small network's first block.")]

# How it is trained.
Steps = Annotated[
    int, typer.Option(help="Optimiser steps; the learning-rate schedule is laid out over them.")
]
Seconds = Annotated[
    float | None,
    typer.Option(
        help="Limit on the training time. Where the steps would not fit, fewer are planned, early on."
    ),
]
LearningRate = Annotated[
    float, typer.Option(help="Peak learning rate of the network; centres of classes take a multiple.")
]
WeightDecay = Annotated[float, typer.Option(help="Of weight matrices; decoupled with AdamW.")]
WarmupSteps = Annotated[int, typer.Option(help="Steps over which the rate rises.")]
Precision = Annotated[str, typer.Option(help=f"{_choice('precision')} The last two under autocast.")]
Seed = Annotated[int, typer.Option(help="Same seed, same result.")]
Backend = Annotated[
    str | None,
    typer.Option(help="triton, cuda, cpu, blocked or reference; by default the best that can run."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<n>.")]

# Labels that are partly wrong.
Noise = Annotated[float, typer.Option(help="Share of the training images that get a wrong label on purpose.")]
NoiseKind = Annotated[
    str, typer.Option(help="Another class; an image of no class; a second copy under another class.")
]
Distill = Annotated[
    bool,
    typer.Option(
        "--distill", help="Train a teacher first and take its soft labels; --seconds does not limit it."
    ),
]
TeacherEpochs = Annotated[int, typer.Option(help="Epochs of each of the teacher's rounds.")]
TeacherRounds = Annotated[int, typer.Option(help="The teacher's rounds on the images whose label it trusts.")]
Trust = Annotated[float, typer.Option(help="Least probability of a given label that the teacher trusts.")]
Temperature = Annotated[float, typer.Option(help="Softens the teacher's predictions.")]

# What is written, and how a run is told its settings.
Evaluations = Annotated[int, typer.Option(help="How often Recall@K is measured while training.")]
CheckpointEvery = Annotated[
    int, typer.Option(help="Steps from one checkpoint to the next; 0: only where the run is interrupted.")
]
Tensorboard = Annotated[bool, typer.Option("--tensorboard", help="Write curves for TensorBoard too.")]
ConfigFile = Annotated[
    str | None,
    typer.Option(
        "--config", help="TOML file of settings, or the name of a recipe.", metavar="FILE", show_default=False
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Any setting, as batch=256 or loss_options.alpha=2; over all others. Can be repeated.",
        metavar="KEY=VALUE",
        show_default=False,
    ),
]
PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print all settings as TOML and train nothing.")
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Go on from the last checkpoint of the run in --out, with its own settings."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(help="Directory of the run; by default a new one under runs/.", show_default=False),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run that is in --out.")]
PanelSeconds = Annotated[
    float, typer.Option(min=0, help="Time for measuring what fusing buys here; 0 leaves it out.")
]
Open = Annotated[bool, typer.Option("--open/--no-open", help="Open the report, where there is a desktop.")]
