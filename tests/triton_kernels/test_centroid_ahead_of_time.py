"""The centroid kernels as shipped, compiled for devices that are not here: they fit, unspilled."""

from __future__ import annotations

from typing import Any

import pytest
import torch

variants = pytest.importorskip("fastdml.triton_kernels.variants")
centroid_variants = pytest.importorskip("fastdml.triton_kernels.centroid_variants").centroid_variants

HALF, SINGLE = torch.bfloat16, torch.float32
INSTRUCTIONS = {"sm_90": "wgmma.mma_async", "sm_100": "tcgen05.mma", "gfx942": "v_mfma"}
SWEEPS = ("nearest_others", "hinge_sums")


def assert_fits(arch: str, kernel: variants.Variant) -> variants.Resources:
    found = variants.compile_variant(kernel, arch)
    assert found.stack == 0, f"{kernel.name}: registers were spilled"
    assert 0 < found.registers <= (512 if arch.startswith("gfx") else 255), kernel.name
    assert found.shared <= variants.SHARED_MEMORY[arch], kernel.name
    return found


def kernels(arch: str, dtype: torch.dtype, width: int, *args: Any) -> dict[str, Any]:
    return {kernel.name: kernel for kernel in centroid_variants(arch, dtype, width, *args)}


@pytest.mark.parametrize("kept", [8, 32])
@pytest.mark.parametrize("width", [64, 300, 512])
def test_search_multiplies_by_wgmma_on_hopper(width: int, kept: int) -> None:
    found = assert_fits("sm_90", kernels("sm_90", HALF, width, kept)["nearest_others"])
    assert INSTRUCTIONS["sm_90"] in found.assembly


@pytest.mark.parametrize("width", [64, 300, 512])
def test_hinges_multiply_by_wgmma_on_hopper(width: int) -> None:
    found = assert_fits("sm_90", kernels("sm_90", HALF, width)["hinge_sums"])
    assert INSTRUCTIONS["sm_90"] in found.assembly


@pytest.mark.parametrize("sweep", SWEEPS)
@pytest.mark.parametrize("width", [300, 512])
@pytest.mark.parametrize("arch", [arch for arch in variants.TARGETS if arch != "sm_90"])
def test_sweeps_fit_other_devices(arch: str, width: int, sweep: str) -> None:
    found = assert_fits(arch, kernels(arch, HALF, width, 32)[sweep])
    assert INSTRUCTIONS.get(arch, "mma.sync") in found.assembly


@pytest.mark.parametrize("sweep", SWEEPS)
@pytest.mark.parametrize("arch", variants.TARGETS)
def test_sweeps_fit_in_float32(arch: str, sweep: str) -> None:
    exact = assert_fits(arch, kernels(arch, SINGLE, 128, 32)[sweep])
    multiplies = [INSTRUCTIONS.get(arch, "mma.sync") in exact.assembly]
    if not arch.startswith("gfx"):
        rounded = assert_fits(arch, kernels(arch, SINGLE, 128, 32, "tf32")[sweep])
        multiplies.append(INSTRUCTIONS.get(arch, "mma.sync") in rounded.assembly)
        assert multiplies == [False, True]


@pytest.mark.parametrize("dtype", [SINGLE, torch.float16], ids=str)
@pytest.mark.parametrize("arch", variants.TARGETS)
def test_the_other_kernels_fit(arch: str, dtype: torch.dtype) -> None:
    sums = torch.float64 if dtype == torch.float16 else SINGLE
    made = kernels(arch, dtype, 300, 8, "ieee", sums)
    for name in made.keys() - set(SWEEPS):
        # so many programs fit a multiprocessor side by side, that reads are many
        assert assert_fits(arch, made[name]).registers <= 128, name
