"""Prints what every kernel costs as compiled ahead of time, on a machine that needs no GPU.

    python -m bench.resources [--arch sm_90 ...] [--dtype bf16 ...] [--width 128 ...] [--precision ieee]
                              [--engine pair proxy ...]
                              [--terms exponential ...] [--closeness inner ...] [--unmined]
                              [--pool soft closest single ...] [--centres 10] [--columns]

Registers and bytes of stack (spilled registers) a thread, bytes of shared memory a program.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Mapping

from fastdml.rules import EVERYTHING, Closeness
from fastdml.rules.closeness import CODES
from fastdml.triton_kernels import variants
from fastdml.triton_kernels.centroid_variants import centroid_variants
from fastdml.triton_kernels.rules import PAIR_TERMS

DTYPES = {name: dtype for dtype, name in variants.NAMES.items()}
POOLS = ("soft", "closest", "single")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--arch", nargs="+", choices=list(variants.TARGETS), default=list(variants.TARGETS))
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), default=["bf16"])
    parser.add_argument("--width", nargs="+", type=int, default=[128, 512])
    parser.add_argument("--precision", choices=["ieee", "tf32"], default="ieee", help="of float32 products")
    parser.add_argument("--engine", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    pair = parser.add_argument_group("pair engine")
    pair.add_argument("--terms", nargs="+", choices=sorted(PAIR_TERMS), default=["exponential"])
    pair.add_argument("--closeness", nargs="+", choices=list(CODES), default=["inner"])
    pair.add_argument("--unmined", action="store_true", help="without a selection of the pairs")
    proxy = parser.add_argument_group("proxy engine")
    proxy.add_argument("--pool", nargs="+", choices=POOLS, default=list(POOLS))
    proxy.add_argument("--centres", type=int, default=10, help="of a class, where there are several")
    proxy.add_argument("--columns", action="store_true", help="centres are columns of the parameter")
    chosen = parser.parse_args()
    print(f"{'kind':25} {'arch':8} {'dtype':5} {'D':>5} {'kernel':30} {'tile':>15} "
          f"{'warps':>5} {'stages':>6} {'registers':>9} {'stack':>6} {'shared':>7}")  # fmt: skip
    for engine, arch, dtype, width in itertools.product(
        chosen.engine, chosen.arch, chosen.dtype, chosen.width
    ):
        for kind, variant in ENGINES[engine](chosen, arch, dtype, width):
            print(f"{kind:25} {arch:8} {dtype:5} {width:5} {costs(variant, arch)}", flush=True)


Variants = Iterator[tuple[str, variants.Variant]]


def _pair(chosen: argparse.Namespace, arch: str, dtype: str, width: int) -> Variants:
    selection = EVERYTHING if chosen.unmined else variants.MINED
    for terms, closeness in itertools.product(chosen.terms, chosen.closeness):
        for variant in variants.pair_variants(
            arch, DTYPES[dtype], width, terms, chosen.precision, Closeness(closeness), selection
        ):
            yield f"{terms} {closeness}", variant


def _proxy(chosen: argparse.Namespace, arch: str, dtype: str, width: int) -> Variants:
    for pool in chosen.pool:
        per_class = 1 if pool == "single" else chosen.centres
        kind = pool if pool == "single" else f"{pool} {per_class}"
        for variant in variants.proxy_variants(
            arch, DTYPES[dtype], width, per_class, pool == "soft", chosen.precision, chosen.columns
        ):
            yield kind, variant


def _centroid(chosen: argparse.Namespace, arch: str, dtype: str, width: int) -> Variants:
    for variant in centroid_variants(arch, DTYPES[dtype], width, precision=chosen.precision):
        yield "centroids", variant


ENGINES: Mapping[str, Callable[[argparse.Namespace, str, str, int], Variants]] = {
    "pair": _pair,
    "proxy": _proxy,
    "centroid": _centroid,
}


def costs(variant: variants.Variant, arch: str) -> str:
    """A kernel's name, tile and resources, in columns."""
    found = variants.compile_variant(variant, arch)
    sizes = [variant.constants[key] for key in ("BM", "BN", "BK", "BD") if key in variant.constants]
    tile = " x ".join(map(str, sizes))
    stages = variant.options.get("num_stages", 3)
    return (
        f"{variant.name:30} {tile:>15} {variant.options['num_warps']:5} {stages:6} "
        f"{found.registers:9} {found.stack:6} {found.shared:7}"
    )


if __name__ == "__main__":
    main()
