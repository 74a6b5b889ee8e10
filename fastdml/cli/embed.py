"""`fastdml embed`: the embeddings of a data set as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastdml.cli import checkpoints, options
from fastdml.cli.running import errors_told
from fastdml.errors import InputError
from fastdml.training.feature_file import EmbeddedSplit, check_ending, write_features
from fastdml.training.trained import load_trained

_SPLITS = {"train": ("train",), "test": ("test",), "both": ("train", "test")}


def embed(
    checkpoint: checkpoints.Checkpoint,
    out: Annotated[
        Path, typer.Option(help="File that is written: .safetensors or .npz.", show_default=False)
    ],
    data: checkpoints.Data = None,
    layout: options.Layout = "auto",
    split: Annotated[str, typer.Option(help="train, test or both.")] = "both",
    on_unreadable: checkpoints.OnUnreadable = None,
    workers: options.Workers = None,
    device: options.Device = "auto",
    trust_code: checkpoints.TrustCode = False,
) -> None:
    """Embed a data set with a trained network and write it all to one file.

    The file has features, labels, split, query, gallery and, where there are, camera. It is a data set
    itself: `fastdml train --data FILE --network head` trains on it. Embeddings are as the network makes them,
    not normalised.
    """
    with errors_told():
        check_ending(out)
        checkpoints.check_folder("out", out)
        if split not in _SPLITS:
            raise InputError(f"split must be one of {', '.join(_SPLITS)}, got {split!r}")
        trained = load_trained(checkpoint, trust_code)
        config, dataset = checkpoints.open_data(trained, data, layout, workers, on_unreadable)
        halves = {"train": dataset.train, "test": dataset.test}
        parts = [
            EmbeddedSplit(
                halves[name], checkpoints.embed_shown(trained, config, halves[name], device), name == "test"
            )
            for name in _SPLITS[split]
        ]
        rows = write_features(out, parts)
        width = trained.config.embedding_dim
        print(f"{out}: {rows:,} embeddings of width {width}; {checkpoints.about(trained)}")
