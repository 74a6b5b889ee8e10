"""Runs every kernel of ours once, on small batches: what compute-sanitizer watches and ncu looks at.

``python -m bench.gpu.kernels --backend triton`` tells which of the kernels in the sources were launched;
``--samples 8192 --width 512 --dtype bfloat16`` runs one batch of that size instead.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

import fastdml
from bench.machine import ROOT
from bench.workload import Workload
from fastdml.losses import (
    BinomialDevianceLoss,
    CircleLoss,
    ContrastiveLoss,
    MultiSimilarityLoss,
    NTXentLoss,
    PairLoss,
    TripletMarginLoss,
)

# Widths and dtypes that between them take every path: row owner and blocks, one step of D and several.
BATCHES = ((200, 40), (130, 128), (70, 300), (70, 520))
DTYPES = ("float32", "bfloat16", "float16")
MINED_AND_FAR: tuple[PairLoss, ...] = (MultiSimilarityLoss(epsilon=0.1), ContrastiveLoss())
"""Terms with a selection, compared by cosine, and others without, by distance."""
FAMILIES: tuple[PairLoss, ...] = (
    *MINED_AND_FAR, CircleLoss(), BinomialDevianceLoss(), NTXentLoss(), TripletMarginLoss(),
)  # fmt: skip
"""A loss for each of the five kinds of terms, each of which compiles every kernel anew, and triplets."""
SOURCES = {"triton": ("triton_kernels", r"^def (\w+_kernel)\("), "cuda": ("csrc/cuda", r"\b(\w+_kernel)\(")}


def own_kernels(backend: str) -> set[str]:
    """The names of a backend's kernels, read from its sources."""
    folder, pattern = SOURCES[backend]
    found: set[str] = set()
    for path in (ROOT / folder).rglob("*"):
        if path.suffix in (".py", ".cu", ".h"):
            found |= set(re.findall(pattern, path.read_text(), flags=re.MULTILINE))
    return found


def run_step(
    work: Workload, backend: str, candidates: int = 0, losses: Sequence[PairLoss] = MINED_AND_FAR
) -> None:
    """Forward and backward of the losses of one batch, against itself or as many candidates."""
    embeddings, labels = work.make()
    refs: tuple[Tensor | None, Tensor | None] = (None, None)
    if candidates:
        refs = Workload(candidates, work.width, work.dtype, work.device).make()
    with fastdml.use_backend(backend):
        for loss in losses:
            value = loss(embeddings, labels, ref_emb=refs[0], ref_labels=refs[1])
            value.backward()
            if not bool(value.detach().isfinite()):
                name = type(loss).__name__
                raise FloatingPointError(f"{name} of {work} on {backend} is {value.item()}")


def run_small(device: str, backend: str, dtypes: Sequence[str]) -> None:
    """All small batches; the first of every dtype with all kinds of terms."""
    for dtype in dtypes:
        for number, (samples, width) in enumerate(BATCHES):
            work = Workload(samples, width, dtype, device)
            losses = MINED_AND_FAR if number else FAMILIES
            run_step(work, backend, losses=losses)
            run_step(work, backend, candidates=150, losses=losses)


def launched_kernels(device: str, backend: str, dtypes: Sequence[str]) -> set[str]:
    """Names of the kernels that the small batches launch, as the profiler saw them."""
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        run_small(device, backend, dtypes)
        torch.cuda.synchronize()
    return {event.key for event in profile.key_averages()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs them; with --list, 1 where a kernel of the sources was not launched."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.kernels", description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--backend", default="triton", choices=("triton", "cuda", "cpu"))
    parser.add_argument("--dtypes", default="", help="default: float32,bfloat16,float16; on the cpu float32")
    parser.add_argument("--list", action="store_true", help="profile them and tell which were not launched")
    parser.add_argument("--samples", type=int, help="run one batch of this N, not the small ones")
    parser.add_argument("--width", type=int, default=128, help="D of that batch")
    parser.add_argument("--dtype", default="bfloat16", help="dtype of that batch")
    options = parser.parse_args(arguments)
    if options.samples:
        run_step(Workload(options.samples, options.width, options.dtype, options.device), options.backend)
        return 0
    dtypes = (
        options.dtypes.split(",") if options.dtypes else DTYPES if options.device == "cuda" else ("float32",)
    )
    if not options.list:
        run_small(options.device, options.backend, dtypes)
        return 0
    seen = " ".join(launched_kernels(options.device, options.backend, dtypes))
    missing = sorted(name for name in own_kernels(options.backend) if name not in seen)
    print(f"{options.backend}: kernels that no small batch launches: {', '.join(missing) or 'none'}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
