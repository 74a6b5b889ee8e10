"""Kernels of threshold statistics and of ranks, compiled for devices that are not here: they do not spill."""

from __future__ import annotations

import pytest

from fastdml.rules import Closeness

variants = pytest.importorskip("fastdml.triton_kernels.variants")


@pytest.mark.parametrize("kind", ["inner", "euclidean", "squared"])
@pytest.mark.parametrize("arch", variants.TARGETS)
def test_kernels_fit(arch: str, kind: str) -> None:
    dtype = "fp32" if kind == "inner" else "fp64"
    for variant in (*variants.threshold_variants(Closeness(kind)), *variants.rank_variants(dtype)):
        found = variants.compile_variant(variant, arch)
        assert found.stack == 0, f"{variant.name}: registers were spilled"
        # eight warps' worth of programs fit a multiprocessor side by side
        assert 0 < found.registers <= 128, variant.name
        assert found.shared <= variants.SHARED_MEMORY[arch]
