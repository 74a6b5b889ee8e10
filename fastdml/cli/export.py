"""`fastdml export`: a trained network as a file that other programs run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastdml.cli import checkpoints
from fastdml.cli.running import errors_told
from fastdml.training import exporting
from fastdml.training.trained import load_trained


def export(
    checkpoint: checkpoints.Checkpoint,
    out: Annotated[
        Path,
        typer.Option(help="File that is written: .pt2 (torch.export) or .onnx.", show_default=False),
    ],
    normalise: Annotated[
        bool, typer.Option("--normalise", help="Embeddings of length 1, so that a product is the cosine.")
    ] = False,
    trust_code: checkpoints.TrustCode = False,
) -> None:
    """Write the embedding network for any number of images; the file is read again, run and compared."""
    with errors_told():
        checkpoints.check_folder("out", out)
        trained = load_trained(checkpoint, trust_code)
        try:
            made = exporting.export(trained.model, trained.shape, out, normalise)
        except exporting.ExportError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error
    inputs = "images in [0, 1]" if len(trained.shape) == 3 else "features"
    length = " of length 1" if normalise else ""
    print(f"{made.path}: {made.size / 1e6:.1f} MB; {checkpoints.about(trained)}")
    print(
        f"from {inputs}, float32 [N, {', '.join(map(str, trained.shape))}], to embeddings float32 "
        f"[N, {trained.config.embedding_dim}]{length}"
    )
    print(
        f"checked: run again by {made.run_by} on random inputs, greatest difference {made.difference:.1e} "
        f"where numbers go up to {made.scale:.1e}"
    )
