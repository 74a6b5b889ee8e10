"""`fastdml demo`: the main job in under two minutes."""

from __future__ import annotations

from fastdml.cli import options
from fastdml.cli.running import errors_told, run_and_show
from fastdml.training.config import TrainConfig
from fastdml.training.run import RunDirectory
from fastdml.training.settings import merge_settings


def demo(
    loss: options.Loss = TrainConfig.loss,
    steps: options.Steps = 400,
    seconds: options.Seconds = 75.0,
    seed: options.Seed = 0,
    backend: options.Backend = None,
    device: options.Device = "auto",
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    panel_seconds: options.PanelSeconds = 12.0,
    open_report: options.Open = True,
) -> None:
    """Train a small embedding on real images with a fused loss, and make a report with pictures.

    Learns 200 kanji in 16 typefaces and then finds 200 others, in under two minutes on two CPU cores. Ctrl-C
    ends it early with all its files in place.
    """
    settings = {
        "loss": loss,
        "steps": steps,
        "seconds": seconds,
        "seed": seed,
        "backend": backend,
        "device": device,
    }
    with errors_told():
        target = out or RunDirectory.unused("runs/demo")
        run_and_show(merge_settings(given=settings), target, overwrite, panel_seconds, open_report)
