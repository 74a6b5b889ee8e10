"""`fastdml evaluate`: how well a trained network retrieves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from fastdml import retrieval
from fastdml.cli import checkpoints, options
from fastdml.cli.running import errors_told
from fastdml.errors import InputError
from fastdml.training.checkpoint import write_atomically
from fastdml.training.datasets import check_can_be_judged
from fastdml.training.trained import load_trained


def evaluate(
    checkpoint: checkpoints.Checkpoint,
    data: checkpoints.Data = None,
    layout: options.Layout = "auto",
    on_unreadable: checkpoints.OnUnreadable = None,
    ks: Annotated[
        str,
        typer.Option(
            help="The K of Recall@K with commas between them; by default those of the data set's literature.",
            show_default=False,
        ),
    ] = "",
    clusters: Annotated[
        bool, typer.Option("--clusters", help="NMI and AMI too; needs faiss and scikit-learn.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the numbers to this file.", show_default=False)
    ] = None,
    workers: options.Workers = None,
    device: options.Device = "auto",
    trust_code: checkpoints.TrustCode = False,
) -> None:
    """Embed the test split of a data set with a trained network and score the retrieval in it.

    Queries, gallery and cameras are those of the data set.
    """
    with errors_told():
        wanted = _whole_numbers(ks)
        if json_file is not None:
            checkpoints.check_folder("json", json_file)
        trained = load_trained(checkpoint, trust_code)
        config, dataset = checkpoints.open_data(trained, data, layout, workers, on_unreadable)
        check_can_be_judged(dataset)
        test = dataset.test
        embeddings, readable = checkpoints.embed_shown(trained, config, test, device)
        result = retrieval.evaluate(
            embeddings,
            test.labels,
            wanted or dataset.ks,
            query=test.is_query & readable,
            gallery=test.is_gallery & readable,
            cameras=test.cameras,
            clusters=clusters,
        )
        print(f"{test.name}: {test.num_classes:,} classes; {checkpoints.about(trained)}")
        print(result)
        if json_file is not None:
            numbers = {
                "data": dataset.name,
                "layout": dataset.layout,
                "network": trained.config.network,
                "step": trained.step,
                "unreadable": int((~readable).sum()),
                **{name: value if math.isfinite(value) else None for name, value in result.to_dict().items()},
            }
            write_atomically(json_file, json.dumps(numbers, indent=2).encode() + b"\n")
            print(f"numbers: {json_file}")


def _whole_numbers(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isdecimal() and int(word) for word in words):
        raise InputError(f"ks must be whole numbers from 1 on with commas between them, got {text!r}")
    return [int(word) for word in words]
