"""Runs every kernel of ours once, on small batches: what compute-sanitizer watches and ncu looks at.

``python -m bench.gpu.kernels --backend triton`` tells which of the kernels in the sources were launched;
``--engine proxy`` runs those of one engine; ``--samples 8192 --width 512 --dtype bfloat16`` runs one batch of
that size instead.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

import fastdml
from bench.gpu.proof import ENGINES
from bench.machine import ROOT
from bench.proxy_peers import CENTRES, CLASSES
from bench.workload import PER_CLASS, Workload
from fastdml.engines.centroid import class_sums, hinge_sums, listed_distances, nearest_others
from fastdml.engines.proxy import proxy_statistics
from fastdml.losses import (
    BinomialDevianceLoss,
    CircleLoss,
    ContrastiveLoss,
    MultiSimilarityLoss,
    NTXentLoss,
    PairLoss,
    TripletMarginLoss,
)
from fastdml.retrieval import evaluate
from fastdml.rules import Centres

# Widths and dtypes that between them take every path: row owner and blocks, one step of D and several.
BATCHES = ((200, 40), (130, 128), (70, 300), (70, 520))
DTYPES = ("float32", "bfloat16", "float16")
MINED_AND_FAR: tuple[PairLoss, ...] = (MultiSimilarityLoss(epsilon=0.1), ContrastiveLoss())
"""Terms with a selection, compared by cosine, and others without, by distance."""
FAMILIES: tuple[PairLoss, ...] = (
    *MINED_AND_FAR, CircleLoss(), BinomialDevianceLoss(), NTXentLoss(), TripletMarginLoss(),
)  # fmt: skip
"""A loss for each of the five kinds of terms, each of which compiles every kernel anew, and triplets."""
POOLS = (Centres(3, 0.1), Centres(3), Centres())
"""A class compared by all its centres, by the closest, and by the only one."""
SMALL_CLASSES = 150
NEAREST = (5, 40)
"""As many as a row keeps on chip, and more."""
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


def run_proxies(
    work: Workload, backend: str, how: Centres, classes: int = SMALL_CLASSES, centres: str = "float32"
) -> None:
    """Forward and backward of the proxy engine on one batch, with products in the batch's dtype.

    Args:
        work: the samples.
        backend: runs it.
        how: how the centres are stored and compared; distances between those of a class are summed too.
        classes: their number.
        centres: the dtype of the centres.
    """
    embeddings, labels = work.make(requires_grad=False)
    rows = F.normalize(embeddings.float(), dim=1).requires_grad_()
    count = classes * how.per_class
    shape = (work.width, count) if how.columns else (count, work.width)
    generator = torch.Generator(work.device).manual_seed(count)
    stored = torch.randn(shape, generator=generator, device=work.device).to(getattr(torch, centres))
    with fastdml.use_backend(backend):
        found = proxy_statistics(
            rows, stored.requires_grad_(), labels % classes, how,
            scale=20.0, spread=how.per_class > 1, product=embeddings.dtype,
        )  # fmt: skip
        value = torch.cat(found).sum()
        gradients = torch.autograd.grad(value, (rows, stored))
    if not all(bool(one.isfinite().all()) for one in (*found, *gradients)):
        raise FloatingPointError(f"{how} of {work} on {backend} is not finite")


def run_centroids(
    work: Workload, backend: str, classes: int = SMALL_CLASSES, product: torch.dtype | None = None
) -> None:
    """Forward and backward of the centroid engine on one batch.

    Args:
        work: the rows.
        backend: runs it.
        classes: the number of points, one a class; every row lists the first several times.
        product: the dtype of products; None is the batch's.
    """
    embeddings, labels = work.make(requires_grad=False)
    product = product or embeddings.dtype
    labels, names = labels % classes, torch.arange(classes, device=work.device)
    rows = F.normalize(embeddings.float(), dim=1).requires_grad_()
    generator = torch.Generator(work.device).manual_seed(classes)
    points = torch.randn(classes, work.width, generator=generator, device=work.device)
    points = F.normalize(points, dim=1).requires_grad_()
    with fastdml.use_backend(backend):
        near = [nearest_others(rows, points, labels, names, k, product=product) for k in NEAREST]
        apart = listed_distances(rows, points, torch.cat([labels[:, None], 0 * near[0], near[0]], dim=1))
        hinges = hinge_sums(rows, points, labels, apart[:, 0], product=product)
        sums = [class_sums(rows, labels, classes, dtype) for dtype in (torch.float32, torch.float64)]
        value = apart.sum() + hinges.sum() + sum(one.square().sum() for one in sums)
        found = torch.autograd.grad(value, (rows, points))
    if not all(bool(one.isfinite().all()) for one in (value, *found)):
        raise FloatingPointError(f"centroids of {work} on {backend} are not finite")
    for chosen in near:
        if bool(((chosen >= classes) | (chosen == labels[:, None])).any()):
            raise IndexError(f"the nearest centroids of {work} on {backend} are none, or a row's own")


def run_ranks(work: Workload, backend: str) -> None:
    """The ranks that retrieval finds in one batch, held against those of plain PyTorch."""
    embeddings, labels = work.make(requires_grad=False)
    found = []
    for name in (backend, "blocked"):
        with fastdml.use_backend(name):
            found.append(evaluate(embeddings, labels).positive_ranks(range(work.samples)))
    if not all(torch.equal(fused, plain) for fused, plain in zip(*found, strict=True)):
        raise ArithmeticError(f"the ranks of {work} on {backend} are not those of plain PyTorch")


def run_small(
    device: str,
    backend: str,
    dtypes: Sequence[str],
    engines: Sequence[str] = ENGINES,
    numbers: Sequence[int] | None = None,
) -> None:
    """Small batches, all or some by number; the first with all terms, pools and layouts of centres."""
    for dtype in dtypes:
        for number in range(len(BATCHES)) if numbers is None else numbers:
            work = Workload(*BATCHES[number], dtype, device)
            if "pair" in engines:
                losses = MINED_AND_FAR if number else FAMILIES
                run_step(work, backend, losses=losses)
                run_step(work, backend, candidates=150, losses=losses)
                run_ranks(work, backend)
            if "proxy" in engines:
                for how in POOLS[:1] if number else POOLS:
                    run_proxies(work, backend, how._replace(columns=True))
                    if not number:
                        run_proxies(work, backend, how, centres=dtype)
            if "centroid" in engines:
                run_centroids(work, backend)
                if not number:  # the weights of float16 alone are scaled, by a kernel of their own
                    run_centroids(work, backend, product=torch.float16)


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
    parser.add_argument("--engine", choices=ENGINES, help="default: all")
    parser.add_argument("--dtypes", default="", help="default: float32,bfloat16,float16; on the cpu float32")
    parser.add_argument("--list", action="store_true", help="profile them and tell which were not launched")
    parser.add_argument("--samples", type=int, help="run one batch of this N, not the small ones")
    parser.add_argument("--width", type=int, default=128, help="D of that batch")
    parser.add_argument("--dtype", default="bfloat16", help="dtype of that batch")
    options = parser.parse_args(arguments)
    engines = (options.engine,) if options.engine else ENGINES
    if options.samples:
        work = Workload(options.samples, options.width, options.dtype, options.device)
        if "pair" in engines:
            run_step(work, options.backend)
        if "proxy" in engines:
            run_proxies(work, options.backend, Centres(CENTRES, 0.1, columns=True), CLASSES)
        if "centroid" in engines:
            run_centroids(work, options.backend, work.samples // PER_CLASS)
        return 0
    dtypes = (
        options.dtypes.split(",") if options.dtypes else DTYPES if options.device == "cuda" else ("float32",)
    )
    if not options.list:
        run_small(options.device, options.backend, dtypes, engines)
        return 0
    seen = " ".join(launched_kernels(options.device, options.backend, dtypes))
    missing = sorted(name for name in own_kernels(options.backend) if name not in seen)
    print(f"{options.backend}: kernels that no small batch launches: {', '.join(missing) or 'none'}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
