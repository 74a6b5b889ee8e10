"""Every kernel in its shipped configuration, compiled for devices that are not here: it fits, unspilled.

All terms and closenesses are compiled for sm_90, the mined exponential elsewhere; with FASTDML_COMPILE_ALL=1
all of them everywhere, which takes long.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import NamedTuple

import pytest
import torch

from fastdml.rules import COSINE, EVERYTHING, Closeness

variants = pytest.importorskip("fastdml.triton_kernels.variants")
rules = pytest.importorskip("fastdml.triton_kernels.rules")


class Key(NamedTuple):
    """A kernel, and what it is compiled for."""

    arch: str
    dtype: torch.dtype
    width: int
    kernel: str
    precision: str = "ieee"
    terms: str = "exponential"
    closeness: Closeness = COSINE
    mined: bool = True

    def __str__(self) -> str:
        mined = "mined" if self.mined else "all"
        return (
            f"{self.arch}-{variants.NAMES[self.dtype]}-{self.width}-{self.precision}-{self.terms}-"
            f"{self.closeness.kind}-{mined}-{self.kernel}"
        )


FORWARD = ("pair_negatives", "pair_positives")
ROWS = ("pair_row_gradients[self]", "pair_row_gradients[anchors]", "pair_row_gradients[candidates]")
BLOCKS = (
    "pair_weights[self]",
    "pair_positive_weights[self]",
    "pair_weights[anchors]",
    "pair_positive_weights[anchors]",
)
UNITS = ("unit_rows", "row_gradients", "label_order[self]", "sorted_gradients")
HALF, SINGLE = torch.bfloat16, torch.float32
EUCLIDEAN = Closeness("euclidean")


def keys() -> Iterator[Key]:
    """What is compiled: the exponential terms on every architecture."""

    def group(
        arch: str, dtype: torch.dtype, width: int, names: tuple[str, ...], precision: str = "ieee"
    ) -> Iterator[Key]:
        return (Key(arch, dtype, width, name, precision) for name in names)

    yield from group("sm_90", HALF, 64, (ROWS[0], "label_order[anchors]", "label_order[candidates]"))
    yield from group("sm_90", HALF, 128, UNITS + FORWARD + ROWS)
    yield from group("sm_90", torch.float16, 128, ("row_gradients", *FORWARD))
    yield from group("sm_90", HALF, 256, FORWARD + ROWS)
    yield from group("sm_90", HALF, 512, FORWARD + BLOCKS)
    yield from group("sm_90", HALF, 300, ("pair_negatives",))
    yield from group("sm_90", SINGLE, 128, ("unit_rows", *FORWARD, *BLOCKS))
    yield from group("sm_90", SINGLE, 128, ("pair_negatives", "pair_weights[self]"), "tf32")
    for arch in ("sm_80", "sm_100", "sm_120"):
        yield from group(arch, HALF, 128, (*UNITS, "pair_negatives", ROWS[0], ROWS[2]))
        yield from group(arch, HALF, 512, ("pair_negatives", *BLOCKS[:2]))
        yield from group(arch, SINGLE, 128, BLOCKS[:2])
    yield from group("sm_100", HALF, 256, (ROWS[0],))
    yield from group("gfx942", HALF, 128, (*UNITS, *FORWARD, *BLOCKS))
    yield from group("gfx942", HALF, 512, ("pair_negatives", *BLOCKS[:2]))
    yield from group("gfx942", SINGLE, 128, ("pair_negatives", "pair_weights[self]"))


def keys_of_rules(arch: str) -> Iterator[Key]:
    """The other terms, closenesses and selections, where they take most registers."""
    for terms in rules.PAIR_TERMS:
        if terms != "exponential":
            for width in (128, 256, 512):
                names = (ROWS[0],) if width < 512 else BLOCKS[:2]
                yield from (Key(arch, HALF, width, name, terms=terms) for name in (*FORWARD[:1], *names))
            yield from (Key(arch, HALF, 128, name, terms=terms) for name in (FORWARD[1], ROWS[2]))
    for terms in ("exponential", "hinge"):
        for name in ("squared_lengths", FORWARD[0], ROWS[0]):
            yield Key(arch, HALF, 128, name, terms=terms, closeness=EUCLIDEAN)
        yield Key(arch, HALF, 512, BLOCKS[0], terms=terms, closeness=EUCLIDEAN)
    yield Key(arch, torch.float16, 128, FORWARD[0], terms="hinge", closeness=EUCLIDEAN)
    for name in (*FORWARD, ROWS[0]):
        yield Key(arch, HALF, 128, name, mined=False)


def exists(key: Key) -> bool:
    """Whether the form of the backward that this architecture takes at this width has the kernel."""
    return key.kernel in {variant.name for variant in made(key)}


def made(key: Key) -> Iterator[variants.Variant]:
    return variants.pair_variants(
        key.arch, key.dtype, key.width, key.terms, key.precision, key.closeness,
        variants.MINED if key.mined else EVERYTHING,
    )  # fmt: skip


EVERYWHERE = os.environ.get("FASTDML_COMPILE_ALL", "0") == "1"
KEYS = list(keys()) + [
    key
    for arch in (variants.TARGETS if EVERYWHERE else ("sm_90",))
    for key in keys_of_rules(arch)
    if exists(key)
]


def compile_key(key: Key) -> variants.Resources:
    found = {variant.name: variant for variant in made(key)}
    return variants.compile_variant(found[key.kernel], key.arch)


@pytest.fixture(scope="module")
def compiled() -> Iterator[dict[Key, Future[variants.Resources]]]:
    """Two processes compile; a test waits for its own kernel."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        yield {key: pool.submit(compile_key, key) for key in KEYS}


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_kernel_fits(key: Key, compiled: dict[Key, Future[variants.Resources]]) -> None:
    found = compiled[key].result()
    assert found.stack == 0, "registers were spilled"
    assert 0 < found.registers <= (512 if key.arch.startswith("gfx") else 255)
    assert found.shared <= variants.SHARED_MEMORY[key.arch]
    multiplies = key.kernel in FORWARD + ROWS + BLOCKS
    multiplies = multiplies and (key.dtype != SINGLE or key.precision == "tf32")
    instruction = {"sm_90": "wgmma.mma_async", "sm_100": "tcgen05.mma", "gfx942": "v_mfma"}.get(
        key.arch, "mma.sync"
    )
    assert (instruction in found.assembly) == multiplies or key.arch == "gfx942"


def test_every_kernel_is_compiled_for_hopper() -> None:
    wanted = {
        variant.name
        for width in (128, 512)
        for variant in variants.pair_variants("sm_90", HALF, width, closeness=EUCLIDEAN)
    }
    assert wanted == {key.kernel for key in KEYS if key.arch == "sm_90" and key.dtype == HALF}
