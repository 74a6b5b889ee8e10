"""What fastdml set out to reach, and whether a results file shows that it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from bench.contests import CONTESTS
from bench.loss_peers import LOSSES, MINED
from bench.loss_tables import by_loss
from bench.proxy_peers import CENTRES, CLASSES_ON_CUDA, REGULARISED
from bench.results import Results, Row, Size
from bench.tables import comparable, ours, times

CPU_SPEEDUPS = {128: 4.0, 256: 4.0, 1024: 16.0, 4096: 32.0, 8192: 45.0}
SWEPT = ("contrastive", "supcon", "generalised lifted", "circle", "binomial deviance")
"""Losses that need of the engine what the mined one needs."""
CUBIC = ("lifted", "nt-xent", "triplets")
"""Losses of which PML compares every positive with every negative."""
SHARE_OF_MINED = 1.3
SOP = Size(60502, 512, "float32")
MEGABYTE = 1.0
SLACK = 1.1
"""Growth by a tenth more than N's still counts as linear: the process itself grows a little too."""


@dataclass(frozen=True)
class Target:
    """One line of the check: ``reached`` is None where the rows it needs are not there."""

    what: str
    wanted: str
    found: str
    reached: bool | None

    @property
    def verdict(self) -> str:
        return {True: "reached", False: "MISSED", None: "not measured"}[self.reached]


def check_targets(results: Results) -> list[Target]:
    """Every target of the contest and the device that the file is about."""
    kinds = {header["kind"] for header in results.runs.values()}
    targets = TARGETS.get(results.contest, {})
    return [
        target
        for kind in ("cpu", "cuda")
        if kind in kinds and kind in targets
        for target in targets[kind](results)
    ]


def _pair_on_cpu(results: Results) -> Iterator[Target]:
    for samples, wanted in CPU_SPEEDUPS.items():
        yield _speedup(results, Size(samples, 128, "float32"), "pml", wanted)
    yield _speedup(results, Size(8192, 128, "float32"), "blocked", 4.5)
    yield _share_of_rate(results, "sgemm", _largest(results, 512, "float32"), 0.9, 1e-9, "GFLOP/s")
    yield _memory(results, Size(16384, 128, "float32"), 40)
    yield _linear(results, Size(16384, 128, "float32"), Size(65536, 128, "float32"))


def _pair_on_cuda(results: Results) -> Iterator[Target]:
    largest = Size(65536, 512, "bfloat16")
    for share in (0.4, 0.5):
        yield _share_of_rate(results, "bf16", largest, share, 1e-12, "TFLOP/s")
    held = _largest_of(results, "pml", 512, "bfloat16")
    for wanted in (10.0, 20.0):
        yield _speedup(results, held, "pml", wanted)
    yield _memory_ratio(results, held, "pml", 50.0)
    yield _memory(results, Size(524288, 512, "bfloat16"), 40_000)
    yield _memory(results, Size(1048576, 512, "bfloat16"), 80_000)
    for samples in (128, 256, 512, 1024, 2048):
        yield _speedup(results, Size(samples, 128, "bfloat16"), "compiled", 1.0)
    yield _milliseconds(results, Size(512, 128, "bfloat16"), 0.150)


def _losses_on_cpu(results: Results) -> Iterator[Target]:
    size, views = Size(4096, 128, "float32"), by_loss(results)
    for loss in SWEPT:
        yield _against_mined(views, loss, size)
    for loss in SWEPT:
        if LOSSES[loss].in_pml:
            yield _of_loss(views, loss, lambda view: _speedup(view, size, "pml", 10.0))
    for loss in CUBIC:
        yield _of_loss(views, loss, lambda view: _memory(view, Size(8192, 128, "float32"), 100))


def _losses_on_cuda(results: Results) -> Iterator[Target]:
    views = by_loss(results)
    for size in (Size(4096, 128, "bfloat16"), Size(16384, 512, "bfloat16")):
        for loss in (*SWEPT, "nt-xent", "margin"):
            yield _against_mined(views, loss, size)


def _soft_triple_on_cpu(results: Results) -> Iterator[Target]:
    size = Size(256, 64, "float32")
    yield _speedup(results, size, "pml", 5.0)
    yield _memory_ratio(results, size, "pml", 1 / 0.15)


def _soft_triple_on_cuda(results: Results) -> Iterator[Target]:
    size = Size(4096, 512, "bfloat16")
    yield _share_of_rate(results, "bf16", size, 0.4, 1e-12, "TFLOP/s", 8.0 * CLASSES_ON_CUDA * CENTRES)
    yield _speedup(results, _largest_of(results, "compiled", 512, "bfloat16"), "compiled", 3.0)
    yield _memory(results, size, 200)


def _proxies_on_cpu(results: Results) -> Iterator[Target]:
    size, views = Size(256, 64, "float32"), by_loss(results)
    yield _of_loss(views, "soft-triple", lambda view: _speedup(view, size, "pml", 5.0))
    yield _of_loss(views, "soft-triple", lambda view: _memory_ratio(view, size, "pml", 1 / 0.15))
    own = ours(views[REGULARISED].find("time", "both", size)) if REGULARISED in views else None
    plain = views["soft-triple"].find("time", "both", size).get("pml") if "soft-triple" in views else None
    what, wanted = f"{REGULARISED}: speed against pml without the regulariser", "at least 5 x"
    if own is None or plain is None or not own.p50 or plain.p50 is None or not comparable(own, plain):
        yield Target(what, wanted, "", None)
    else:
        yield Target(what, wanted, times(plain.p50 / own.p50), plain.p50 >= 5 * own.p50)


def _fat_on_cpu(results: Results) -> Iterator[Target]:
    yield _over_product(results, Size(65536, 128, "float32"), 1.5)
    yield _speedup(results, _largest_of(results, "pml", 128, "float32"), "pml", 50.0)
    yield _linear(results, Size(8192, 128, "float32"), Size(65536, 128, "float32"))


def _fat_on_cuda(results: Results) -> Iterator[Target]:
    yield _over_product(results, Size(1048576, 512, "bfloat16"), 1.3)


def _sop_on_cpu(results: Results) -> Iterator[Target]:
    yield _speedup(results, SOP, "faiss-cpu", 1.0)
    yield _memory(results, SOP, 200)


def _sop_on_cuda(results: Results) -> Iterator[Target]:
    own = ours(results.find("time", _whole(results), SOP))
    yield _verdict_at_most(f"time at {_shown(SOP)}", own, 200, "ms")


TARGETS: Mapping[str, Mapping[str, Callable[[Results], Iterator[Target]]]] = {
    "pair_multi_similarity": {"cpu": _pair_on_cpu, "cuda": _pair_on_cuda},
    "pair_losses": {"cpu": _losses_on_cpu, "cuda": _losses_on_cuda},
    "soft_triple": {"cpu": _soft_triple_on_cpu, "cuda": _soft_triple_on_cuda},
    "proxy_losses": {"cpu": _proxies_on_cpu},
    "fat": {"cpu": _fat_on_cpu, "cuda": _fat_on_cuda},
    "retrieval_sop": {"cpu": _sop_on_cpu, "cuda": _sop_on_cuda},
}


def _of_loss(views: Mapping[str, Results], loss: str, target: Callable[[Results], Target]) -> Target:
    """A target of one loss; one without any row was not measured."""
    found = target(views.get(loss, Results("pair_losses", {}, [])))
    return replace(found, what=f"{loss}: {found.what}")


def _against_mined(views: Mapping[str, Results], loss: str, size: Size) -> Target:
    """At most SHARE_OF_MINED times as long as Multi-Similarity with mining in the same run."""
    what, wanted = f"{loss}: time over that of {MINED} at {_shown(size)}", f"at most {SHARE_OF_MINED:g} x"
    own, mined = (
        ours(views[name].find("time", "both", size)) if name in views else None for name in (loss, MINED)
    )
    if own is None or mined is None or own.p50 is None or not mined.p50:
        return Target(what, wanted, "", None)
    if not comparable(own, mined):
        return Target(what, wanted, "measured in different runs", None)
    ratio = own.p50 / mined.p50
    return Target(what, wanted, times(ratio), ratio <= SHARE_OF_MINED)


def _whole(results: Results) -> str:
    return CONTESTS[results.contest].whole


def _speedup(results: Results, size: Size | None, rival: str, wanted: float) -> Target:
    what = f"speed against {rival} at {_shown(size)}"
    return _ratio(results, "time", size, rival, what, wanted)


def _memory_ratio(results: Results, size: Size | None, rival: str, wanted: float) -> Target:
    return _ratio(results, "memory", size, rival, f"memory of {rival} over ours at {_shown(size)}", wanted)


def _ratio(results: Results, metric: str, size: Size | None, rival: str, what: str, wanted: float) -> Target:
    rows = results.find(metric, _whole(results), size) if size else {}
    own, other = ours(rows), rows.get(rival)
    target = f"at least {wanted:g} x"
    if own is None or other is None or not own.p50 or other.p50 is None:
        return Target(what, target, "", None)
    if not comparable(own, other):
        return Target(what, target, "measured in different runs", None)
    ratio = other.p50 / own.p50
    return Target(what, target, times(ratio), ratio >= wanted)


def _share_of_rate(
    results: Results,
    ceiling: str,
    size: Size | None,
    wanted: float,
    scale: float,
    unit: str,
    operations: float = 0.0,
) -> Target:
    """Of the pair losses' ``6 N^2 D`` operations, or of ``operations`` for each of N D numbers."""
    count = "operations" if operations else "6 N^2 D"
    what = f"{count} over the measured {ceiling} rate at {_shown(size)}"
    own = ours(results.find("time", "both", size)) if size else None
    target = f"at least {wanted:.0%}"
    if size is None or own is None or not own.p50:
        return Target(what, target, "", None)
    measured = results.runs[own.run].get("ceilings", {}).get(ceiling)
    if not measured:
        return Target(what, target, "no rate in that run", None)
    rate = (operations or 6.0 * size.samples) * size.samples * size.width * scale / (own.p50 / 1e3)
    share = rate / measured["p50"]
    return Target(what, target, f"{share:.0%} ({rate:.4g} of {measured['p50']:.4g} {unit})", share >= wanted)


def _over_product(results: Results, size: Size, wanted: float) -> Target:
    """At most so many times as long as the product of the batch with the centroids in the same run."""
    what, target = f"time over that of one product at {_shown(size)}", f"at most {wanted:g} x"
    rows = results.find("time", "both", size)
    own, product = ours(rows), rows.get("product")
    if own is None or product is None or own.p50 is None or not product.p50:
        return Target(what, target, "", None)
    if not comparable(own, product):
        return Target(what, target, "measured in different runs", None)
    ratio = own.p50 / product.p50
    return Target(what, target, times(ratio), ratio <= wanted)


def _memory(results: Results, size: Size, megabytes: float) -> Target:
    what = f"memory beyond inputs and gradient at {_shown(size)}"
    return _verdict_at_most(what, ours(results.find("memory", _whole(results), size)), megabytes, "MB")


def _milliseconds(results: Results, size: Size, wanted: float) -> Target:
    own = ours(results.find("time", "graph", size))
    return _verdict_at_most(f"GPU time, as a graph, at {_shown(size)}", own, wanted, "ms")


def _verdict_at_most(what: str, own: Row | None, wanted: float, unit: str) -> Target:
    target = f"at most {wanted:g} {unit}"
    if own is None:
        return Target(what, target, "", None)
    if own.p50 is None:
        return Target(what, target, own.status, False)
    return Target(what, target, f"{own.p50:.4g} {unit}", own.p50 <= wanted)


def _linear(results: Results, small: Size, large: Size) -> Target:
    what = f"memory grows linearly from {_shown(small)} to {large.samples:,}"
    wanted = large.samples / small.samples * SLACK
    first, last = (ours(results.find("memory", "both", size)) for size in (small, large))
    if first is None or last is None or not first.p50 or last.p50 is None:
        return Target(what, f"at most {wanted:.3g} x", "", None)
    ratio = last.p50 / max(first.p50, MEGABYTE)
    return Target(what, f"at most {wanted:.3g} x", f"{ratio:.3g} x", ratio <= wanted)


def _largest(results: Results, width: int, dtype: str) -> Size | None:
    return _last(results, width, dtype, lambda size: ours(results.find("time", "both", size)))


def _largest_of(results: Results, provider: str, width: int, dtype: str) -> Size | None:
    """The largest size that a provider was measured at."""
    return _last(results, width, dtype, lambda size: results.find("time", "both", size).get(provider))


def _last(results: Results, width: int, dtype: str, find: Callable[[Size], Row | None]) -> Size | None:
    last = None
    for size in results.sizes("time", "both"):
        row = find(size)
        if (size.width, size.dtype) == (width, dtype) and row is not None and row.p50 is not None:
            last = size
    return last


def _shown(size: Size | None) -> str:
    return "any N" if size is None else f"N {size.samples:,}, D {size.width}, {size.dtype}"
