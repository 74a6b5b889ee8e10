"""Every launch as Triton would specialise it on a GPU: what is compiled, when again, and whether it is what
`variants` describes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import fastdml
from fastdml import losses
from fastdml.engines.centroid import class_sums, hinge_sums, listed_distances, nearest_others
from fastdml.engines.proxy import proxy_statistics
from fastdml.retrieval import evaluate
from fastdml.rules import Centres, Closeness

variants = pytest.importorskip("fastdml.triton_kernels.variants")

from pretend_device import ARCH, Launch, pretended_launches  # noqa: E402

from fastdml.triton_kernels.centroid_variants import centroid_variants  # noqa: E402

HALF = torch.bfloat16
CLASSES = 48

launches = pytest.fixture(pretended_launches)


def step(loss: losses.PairLoss, count: int, width: int, dtype: torch.dtype, refs: int = 0) -> None:
    rows = torch.randn(count, width, dtype=dtype, requires_grad=True)
    others = torch.randn(refs, width, dtype=dtype, requires_grad=True) if refs else None
    loss(
        rows, torch.arange(count) // 4, ref_emb=others, ref_labels=torch.arange(refs) // 4 if refs else None
    ).backward()


def pairs(count: int, width: int, dtype: torch.dtype) -> None:
    for loss in (losses.MultiSimilarityLoss(epsilon=0.1), losses.ContrastiveLoss()):
        step(loss, count, width, dtype)
        step(loss, count, width, dtype, refs=count + 7)


def triplets(count: int, width: int, dtype: torch.dtype) -> None:
    step(losses.TripletMarginLoss(), count, width, dtype)


def ranks(count: int, width: int, dtype: torch.dtype) -> None:
    evaluate(torch.randn(count, width), torch.arange(count) // 4).positive_ranks(range(count))


def proxies(count: int, width: int, dtype: torch.dtype) -> None:
    """The number of classes is the user's, and stays; the batch changes."""
    for how in (Centres(3, 0.1, columns=True), Centres(3), Centres()):
        shape = (width, CLASSES * how.per_class) if how.columns else (CLASSES * how.per_class, width)
        rows = torch.randn(count, width, requires_grad=True)
        centres = torch.randn(shape, requires_grad=True)
        found = proxy_statistics(
            rows,
            centres,
            torch.arange(count) % CLASSES,
            how,
            scale=20.0,
            spread=how.per_class > 1,
            product=dtype,
        )
        torch.autograd.grad(torch.cat(found).sum(), (rows, centres))


def centroids(count: int, width: int, dtype: torch.dtype) -> None:
    """Centroids of the batch: their number changes with it."""
    classes = count // 4
    rows, points = (torch.randn(n, width, requires_grad=True) for n in (count, classes))
    labels, names = torch.arange(count) % classes, torch.arange(classes)
    near = nearest_others(rows, points, labels, names, 5, product=dtype)
    apart = listed_distances(rows, points, torch.cat([labels[:, None], near], dim=1))
    hinges = hinge_sums(rows, points, labels, apart[:, 0], product=dtype)
    value = apart.sum() + hinges.sum() + class_sums(rows, labels, classes).sum()
    torch.autograd.grad(value, (rows, points))


ENGINES: dict[str, Callable[[int, int, torch.dtype], None]] = {
    "pairs": pairs,
    "triplets": triplets,
    "ranks": ranks,
    "proxies": proxies,
    "centroids": centroids,
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("width", [128, 512])
@pytest.mark.parametrize("engine", ENGINES)
def test_another_number_of_samples_compiles_nothing(
    engine: str, width: int, dtype: torch.dtype, launches: list[Launch]
) -> None:
    """Compiling takes seconds, and the last batch of an epoch is of any size."""
    with fastdml.use_backend("triton"):
        for count in (256, 1024):  # segments of more than 512 entries take a kernel more
            ENGINES[engine](count, width, dtype)
        first = len(launches)
        assert first > 0
        for count in (200, 202, 203, 305, 1033):
            ENGINES[engine](count, width, dtype)
    again = [f"{one.kernel.__name__} {one.signature} {sorted(one.aligned)}" for one in launches[first:]]
    assert not again, "\n".join(again)


def described(width: int, dtype: torch.dtype) -> Iterator[Any]:
    """The variants of what `pairs`, `proxies`, `centroids`, `triplets` and `ranks` launch."""
    yield from variants.pair_variants(ARCH, dtype, width)
    yield from variants.pair_variants(
        ARCH, dtype, width, "hinge", closeness=Closeness("euclidean"), selection=fastdml.rules.EVERYTHING
    )
    yield from variants.threshold_variants(Closeness("euclidean"), own=False)
    yield from variants.rank_variants("fp32")
    for per_class, soft, columns in ((3, True, True), (3, False, False), (1, False, False)):
        yield from variants.proxy_variants(ARCH, dtype, width, per_class, soft, columns=columns)
    yield from centroid_variants(ARCH, dtype, width)


@pytest.mark.parametrize("width", [128, 512])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_what_is_launched_is_what_was_compiled_ahead_of_time(
    width: int, dtype: torch.dtype, launches: list[Launch]
) -> None:
    with fastdml.use_backend("triton"):
        for engine in ENGINES.values():
            engine(256, width, dtype)
    known = [specialised(variant) for variant in described(width, dtype)]
    assert launches
    unknown = [found for found in map(as_launched, launches) if found not in known]
    assert not unknown, "\n".join(map(str, unknown))


def as_launched(launch: Launch) -> dict[str, Any]:
    options = launch.options
    return {
        "kernel": launch.kernel.__name__,
        "signature": launch.signature,
        "constants": {name: value for name, value in launch.constants.items() if name in launch.signature},
        "aligned": launch.aligned,
        "options": (options.num_warps, options.num_stages, options.maxnreg),
    }


def specialised(variant: Any) -> dict[str, Any]:
    kernel, options = variant.kernel, variant.options
    return {
        "kernel": kernel.__name__,
        "signature": {name: variant.arguments.get(name, "constexpr") for name in kernel.arg_names},
        "constants": variant.constants,
        "aligned": frozenset(kernel.arg_names[path[0]] for path in variants.alignment(variant)),
        "options": (options["num_warps"], options.get("num_stages", 3), options.get("maxnreg")),
    }
