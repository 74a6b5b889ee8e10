"""The proxy kernels as shipped, compiled for devices that are not here: they fit, unspilled."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch

variants = pytest.importorskip("fastdml.triton_kernels.variants")

HALF, SINGLE = torch.bfloat16, torch.float32


class Pool(NamedTuple):
    """Centres of a class, and whether all of them count."""

    per_class: int
    soft: bool


POOLS = {"soft": Pool(10, True), "hard": Pool(10, False), "one": Pool(1, False)}
INSTRUCTIONS = {"sm_90": "wgmma.mma_async", "sm_100": "tcgen05.mma", "gfx942": "v_mfma"}


def assert_fits(arch: str, kernel: variants.Variant) -> variants.Resources:
    found = variants.compile_variant(kernel, arch)
    assert found.stack == 0, f"{kernel.name}: registers were spilled"
    assert 0 < found.registers <= (512 if arch.startswith("gfx") else 255), kernel.name
    assert found.shared <= variants.SHARED_MEMORY[arch], kernel.name
    return found


def kernels(arch: str, dtype: torch.dtype, width: int, pool: str, *args: Any, **more: Any) -> dict[str, Any]:
    made = variants.proxy_variants(arch, dtype, width, *POOLS[pool], *args, **more)
    return {kernel.name: kernel for kernel in made}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("width", [64, 128, 256, 300, 512, 1024])
def test_sums_multiply_by_wgmma_on_hopper(width: int, pool: str) -> None:
    found = assert_fits("sm_90", kernels("sm_90", HALF, width, pool)["proxy_sums"])
    assert INSTRUCTIONS["sm_90"] in found.assembly


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("width", [128, 300, 512])
@pytest.mark.parametrize("arch", [arch for arch in variants.TARGETS if arch != "sm_90"])
def test_sums_fit_other_devices(arch: str, width: int, pool: str) -> None:
    found = assert_fits(arch, kernels(arch, HALF, width, pool)["proxy_sums"])
    assert INSTRUCTIONS.get(arch, "mma.sync") in found.assembly


@pytest.mark.parametrize("pool", ["soft", "one"])
@pytest.mark.parametrize("arch", variants.TARGETS)
def test_sums_fit_in_float32(arch: str, pool: str) -> None:
    exact = assert_fits(arch, kernels(arch, SINGLE, 128, pool)["proxy_sums"])
    multiplies = [INSTRUCTIONS.get(arch, "mma.sync") in exact.assembly]
    if not arch.startswith("gfx"):
        rounded = assert_fits(arch, kernels(arch, SINGLE, 128, pool, "tf32")["proxy_sums"])
        multiplies.append(INSTRUCTIONS.get(arch, "mma.sync") in rounded.assembly)
        assert multiplies == [False, True]


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("dtype", [SINGLE, HALF], ids=str)
@pytest.mark.parametrize("arch", variants.TARGETS)
def test_weights_fit(arch: str, dtype: torch.dtype, pool: str) -> None:
    found = assert_fits(arch, kernels(arch, dtype, 128, pool)["proxy_weights"])
    # sixteen warps fit a multiprocessor side by side, so that reads of the L2 are many
    assert found.registers <= 128


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("arch", variants.TARGETS)
def test_kernels_of_centres_fit(arch: str, columns: bool) -> None:
    centres = HALF if columns else SINGLE
    made = kernels(arch, torch.float16, 300, "soft", columns=columns, centres=centres)
    for name in made.keys() - {"proxy_sums", "proxy_weights"}:
        assert assert_fits(arch, made[name]).registers <= 128, name
