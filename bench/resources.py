"""Prints what every kernel costs as compiled ahead of time, on a machine that needs no GPU.

    python bench/resources.py [--arch sm_90 ...] [--dtype bf16 ...] [--width 128 ...] [--precision ieee]
                              [--terms exponential ...] [--closeness inner ...] [--unmined]

Registers and bytes of stack (spilled registers) a thread, bytes of shared memory a program.
"""

from __future__ import annotations

import argparse
import itertools

from fastdml.rules import EVERYTHING, Closeness
from fastdml.rules.closeness import CODES
from fastdml.triton_kernels import variants
from fastdml.triton_kernels.rules import PAIR_TERMS

DTYPES = {name: dtype for dtype, name in variants.NAMES.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--arch", nargs="+", choices=list(variants.TARGETS), default=list(variants.TARGETS))
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), default=["bf16"])
    parser.add_argument("--width", nargs="+", type=int, default=[128, 512])
    parser.add_argument("--precision", choices=["ieee", "tf32"], default="ieee", help="of float32 products")
    parser.add_argument("--terms", nargs="+", choices=sorted(PAIR_TERMS), default=["exponential"])
    parser.add_argument("--closeness", nargs="+", choices=list(CODES), default=["inner"])
    parser.add_argument("--unmined", action="store_true", help="without a selection of the pairs")
    chosen = parser.parse_args()
    print(f"{'terms':11} {'closeness':9} {'arch':8} {'dtype':5} {'D':>5} {'kernel':30} {'tile':>15} "
          f"{'warps':>5} {'stages':>6} {'registers':>9} {'stack':>6} {'shared':>7}")  # fmt: skip
    for terms, closeness, arch, dtype, width in itertools.product(
        chosen.terms, chosen.closeness, chosen.arch, chosen.dtype, chosen.width
    ):
        selection = EVERYTHING if chosen.unmined else variants.MINED
        for variant in variants.pair_variants(
            arch, DTYPES[dtype], width, terms, chosen.precision, Closeness(closeness), selection
        ):
            print(f"{terms:11} {closeness:9} {arch:8} {dtype:5} {width:5} {costs(variant, arch)}", flush=True)


def costs(variant: variants.Variant, arch: str) -> str:
    """A kernel's name, tile and resources, in columns."""
    found = variants.compile_variant(variant, arch)
    sizes = [variant.constants[key] for key in ("BM", "BN", "BK", "BD") if key in variant.constants]
    tile = " x ".join(map(str, sizes))
    return (
        f"{variant.name:30} {tile:>15} {variant.options['num_warps']:5} {variant.options['num_stages']:6} "
        f"{found.registers:9} {found.stack:6} {found.shared:7}"
    )


if __name__ == "__main__":
    main()
