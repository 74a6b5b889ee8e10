"""Prints what every kernel costs as compiled ahead of time, on a machine that needs no GPU.

    python bench/resources.py [--arch sm_90 ...] [--dtype bf16 ...] [--width 128 ...] [--precision ieee]

Registers and bytes of stack (spilled registers) a thread, bytes of shared memory a program.
"""

from __future__ import annotations

import argparse

import torch

from fastdml.triton_kernels import variants

DTYPES = {name: dtype for dtype, name in variants.NAMES.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--arch", nargs="+", choices=list(variants.TARGETS), default=list(variants.TARGETS))
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), default=["bf16"])
    parser.add_argument("--width", nargs="+", type=int, default=[128, 512])
    parser.add_argument("--precision", choices=["ieee", "tf32"], default="ieee", help="of float32 products")
    chosen = parser.parse_args()
    print(f"{'arch':8} {'dtype':5} {'D':>5} {'kernel':30} {'tile':>15} {'warps':>5} {'stages':>6} "
          f"{'registers':>9} {'stack':>6} {'shared':>7}")  # fmt: skip
    for arch in chosen.arch:
        for dtype in chosen.dtype:
            for width in chosen.width:
                show(arch, dtype, width, chosen.precision)


def show(arch: str, name: str, width: int, precision: str) -> None:
    """One line for every kernel of one architecture, dtype and width."""
    dtype: torch.dtype = DTYPES[name]
    for variant in variants.pair_variants(arch, dtype, width, precision=precision):
        found = variants.compile_variant(variant, arch)
        sizes = [variant.constants[key] for key in ("BM", "BN", "BK", "BD") if key in variant.constants]
        tile = " x ".join(map(str, sizes))
        print(f"{arch:8} {name:5} {width:5} {variant.name:30} {tile:>15} {variant.options['num_warps']:5} "
              f"{variant.options['num_stages']:6} {found.registers:9} {found.stack:6} {found.shared:7}",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
