"""Every kernel in its shipped configuration, compiled for devices that are not here: it fits, unspilled."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor

import pytest
import torch

variants = pytest.importorskip("fastdml.triton_kernels.variants")

Key = tuple[str, torch.dtype, int, str, str]

FORWARD = ("pair_negatives", "pair_positives")
ROWS = ("pair_row_gradients[self]", "pair_row_gradients[anchors]", "pair_row_gradients[candidates]")
BLOCKS = ("pair_weights[self]", "pair_weights[anchors]")
UNITS = ("unit_rows", "row_gradients")


def keys() -> Iterator[Key]:
    """(architecture, dtype, width, precision, kernel) of what is compiled."""

    def group(
        arch: str, dtype: torch.dtype, width: int, names: tuple[str, ...], precision: str = "ieee"
    ) -> None:
        found.extend((arch, dtype, width, precision, name) for name in names)

    found: list[Key] = []
    half, single = torch.bfloat16, torch.float32
    group("sm_90", half, 64, ("pair_row_gradients[self]",))
    group("sm_90", half, 128, UNITS + FORWARD + ROWS)
    group("sm_90", torch.float16, 128, ("row_gradients", "pair_negatives", "pair_row_gradients[self]"))
    group("sm_90", half, 256, FORWARD + ROWS)
    group("sm_90", half, 512, FORWARD + BLOCKS)
    group("sm_90", half, 300, ("pair_negatives",))
    group("sm_90", single, 128, ("unit_rows", *FORWARD, "pair_weights[self]"))
    group("sm_90", single, 128, ("pair_negatives", "pair_weights[self]"), "tf32")
    for arch in ("sm_80", "sm_100", "sm_120"):
        group(arch, half, 128, (*UNITS, "pair_negatives", ROWS[0], ROWS[2]))
        group(arch, half, 512, ("pair_negatives", "pair_weights[self]"))
        group(arch, single, 128, ("pair_weights[self]",))
    group("sm_100", half, 256, (ROWS[0],))
    group("gfx942", half, 128, (*UNITS, *FORWARD, *BLOCKS))
    group("gfx942", half, 512, ("pair_negatives", "pair_weights[self]"))
    group("gfx942", single, 128, ("pair_negatives", "pair_weights[self]"))
    return iter(found)


KEYS = list(keys())


def name_of(key: Key) -> str:
    arch, dtype, width, precision, kernel = key
    return f"{arch}-{variants.NAMES[dtype]}-{width}-{precision}-{kernel}"


def compile_key(key: Key) -> variants.Resources:
    arch, dtype, width, precision, kernel = key
    found = {v.name: v for v in variants.pair_variants(arch, dtype, width, precision=precision)}
    return variants.compile_variant(found[kernel], arch)


@pytest.fixture(scope="module")
def compiled() -> Iterator[dict[Key, Future[variants.Resources]]]:
    """Two processes compile; a test waits for its own kernel."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        yield {key: pool.submit(compile_key, key) for key in KEYS}


@pytest.mark.parametrize("key", KEYS, ids=name_of)
def test_kernel_fits(key: Key, compiled: dict[Key, Future[variants.Resources]]) -> None:
    arch, dtype, _, precision, kernel = key
    found = compiled[key].result()
    assert found.stack == 0, "registers were spilled"
    assert 0 < found.registers <= (512 if arch.startswith("gfx") else 255)
    assert found.shared <= variants.SHARED_MEMORY[arch]
    multiplies = kernel not in UNITS and (dtype != torch.float32 or precision == "tf32")
    instruction = {"sm_90": "wgmma.mma_async", "sm_100": "tcgen05.mma", "gfx942": "v_mfma"}.get(
        arch, "mma.sync"
    )
    assert (instruction in found.assembly) == multiplies or arch == "gfx942"


def test_every_kernel_is_compiled_for_hopper() -> None:
    wanted = {
        variant.name
        for width in (128, 512)
        for variant in variants.pair_variants("sm_90", torch.bfloat16, width)
    }
    assert wanted == {
        kernel for arch, dtype, _, _, kernel in KEYS if arch == "sm_90" and dtype == torch.bfloat16
    }
