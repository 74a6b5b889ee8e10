"""What fastdml set out to reach, and whether a results file shows that it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.results import Results, Row, Size
from bench.tables import comparable, ours, times

CPU_SPEEDUPS = {128: 4.0, 256: 4.0, 1024: 16.0, 4096: 32.0, 8192: 45.0}
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
    """Every target of the device that the file is about."""
    if results.contest != "pair_multi_similarity" or not results.runs:
        return []
    kinds = {header["kind"] for header in results.runs.values()}
    return [
        *(_cpu_targets(results) if "cpu" in kinds else ()),
        *(_cuda_targets(results) if "cuda" in kinds else ()),
    ]


def _cpu_targets(results: Results) -> Iterator[Target]:
    for samples, wanted in CPU_SPEEDUPS.items():
        yield _speedup(results, Size(samples, 128, "float32"), "pml", wanted)
    yield _speedup(results, Size(8192, 128, "float32"), "blocked", 4.5)
    yield _share_of_rate(results, "sgemm", _largest(results, 512, "float32"), 0.9, 1e-9, "GFLOP/s")
    yield _memory(results, Size(16384, 128, "float32"), 40)
    yield _linear(results, Size(16384, 128, "float32"), Size(65536, 128, "float32"))


def _cuda_targets(results: Results) -> Iterator[Target]:
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


def _speedup(results: Results, size: Size | None, rival: str, wanted: float) -> Target:
    what = f"speed against {rival} at {_shown(size)}"
    return _ratio(results, "time", size, rival, what, wanted)


def _memory_ratio(results: Results, size: Size | None, rival: str, wanted: float) -> Target:
    return _ratio(results, "memory", size, rival, f"memory of {rival} over ours at {_shown(size)}", wanted)


def _ratio(results: Results, metric: str, size: Size | None, rival: str, what: str, wanted: float) -> Target:
    rows = results.find(metric, "both", size) if size else {}
    own, other = ours(rows), rows.get(rival)
    target = f"at least {wanted:g} x"
    if own is None or other is None or not own.p50 or other.p50 is None:
        return Target(what, target, "", None)
    if not comparable(own, other):
        return Target(what, target, "measured in different runs", None)
    ratio = other.p50 / own.p50
    return Target(what, target, times(ratio), ratio >= wanted)


def _share_of_rate(
    results: Results, ceiling: str, size: Size | None, wanted: float, scale: float, unit: str
) -> Target:
    what = f"6 N^2 D over the measured {ceiling} rate at {_shown(size)}"
    own = ours(results.find("time", "both", size)) if size else None
    target = f"at least {wanted:.0%}"
    if size is None or own is None or not own.p50:
        return Target(what, target, "", None)
    measured = results.runs[own.run].get("ceilings", {}).get(ceiling)
    if not measured:
        return Target(what, target, "no rate in that run", None)
    rate = 6.0 * size.samples**2 * size.width * scale / (own.p50 / 1e3)
    share = rate / measured["p50"]
    return Target(what, target, f"{share:.0%} ({rate:.4g} of {measured['p50']:.4g} {unit})", share >= wanted)


def _memory(results: Results, size: Size, megabytes: float) -> Target:
    what = f"memory beyond inputs and gradient at {_shown(size)}"
    return _at_most(results, "memory", size, what, megabytes, "MB")


def _milliseconds(results: Results, size: Size, wanted: float) -> Target:
    own = ours(results.find("time", "graph", size))
    return _verdict_at_most(f"GPU time, as a graph, at {_shown(size)}", own, wanted, "ms")


def _at_most(results: Results, metric: str, size: Size, what: str, wanted: float, unit: str) -> Target:
    return _verdict_at_most(what, ours(results.find(metric, "both", size)), wanted, unit)


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
