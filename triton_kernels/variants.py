"""Every kernel in its shipped configurations, described for ahead-of-time compilation, and what it costs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastdml.triton_kernels import configs
from fastdml.triton_kernels.pair_backward import pair_row_gradients_kernel
from fastdml.triton_kernels.pair_block import pair_weights_kernel
from fastdml.triton_kernels.pair_forward import pair_negatives_kernel, pair_positives_kernel
from fastdml.triton_kernels.rules import PAIR_RULES
from fastdml.triton_kernels.units import row_gradients_kernel, unit_rows_kernel

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "sm_120": GPUTarget("cuda", 120, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# Bytes that one program may have on chip.
SHARED_MEMORY = {"sm_80": 166912, "sm_90": 232448, "sm_100": 232448, "sm_120": 101376, "gfx942": 65536}
NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
# Constants that ask for mining; no kernel is specialised on the others.
MINING = (*([0.0] * 8), 1.0, 0.1, 1.0)


class Variant(NamedTuple):
    """One kernel as one architecture would run it."""

    name: str
    kernel: Any
    arguments: dict[str, Any]
    constants: dict[str, Any]
    options: dict[str, int]


class Resources(NamedTuple):
    """Registers and bytes of stack of a thread, bytes of shared memory of a program, and its assembly."""

    registers: int
    stack: int
    shared: int
    assembly: str


def pair_variants(
    arch: str, dtype: torch.dtype, width: int, rule: str = "multi_similarity", precision: str = "ieee"
) -> Iterator[Variant]:
    """The pair engine's kernels for embeddings [N, width] of ``dtype``."""
    functions = PAIR_RULES[rule]
    matrix, p = f"*{NAMES[dtype]}", ("fp32",) * len(MINING)
    ints: dict[str, Any] = {"n_rows": "i32", "n_columns": "i32"}
    spans: dict[str, Any] = {"p_start": "*i32", "p_end": "*i32"}
    rows = configs.row_tile(width)
    yield Variant(
        "unit_rows",
        unit_rows_kernel,
        {
            "p_x": matrix, "p_order": "*i64", "p_unit": matrix, "p_norm": "*fp32", "n_rows": "i32",
            "stride_row": "i32",
        },
        {"stride_column": 1, "D": width, "BM": rows.rows, "BK": rows.depth},
        rows.options(),
    )  # fmt: skip
    yield Variant(
        "row_gradients",
        row_gradients_kernel,
        {
            "p_grad": "*fp32", "p_unit": matrix, "p_norm": "*fp32", "p_order": "*i64", "p_out": matrix,
            "n_rows": "i32", "n_parts": "i32",
        } | ({"p_unscale": "*fp32"} if dtype == torch.float16 else {}),
        {"D": width, "BM": rows.rows, "BK": rows.depth}
        | ({} if dtype == torch.float16 else {"p_unscale": None}),
        rows.options(),
    )  # fmt: skip

    def product(tile: configs.Tile, depth: str) -> dict[str, Any]:
        return {"D": width, "BM": tile.rows, "BN": tile.columns, depth: tile.depth, "PRECISION": precision}

    tile = configs.forward_tile(arch, dtype, width, precision)
    yield Variant(
        "pair_negatives",
        pair_negatives_kernel,
        {
            "p_x": matrix, "p_r": matrix, **spans, "p_threshold": "*fp32", "p_most": "*fp32",
            "p_sum": "*fp32", "p": p,
        } | ints,
        {
            "NEGATIVE_THRESHOLD": functions.negative_threshold, "IS_POSITIVE": functions.is_positive,
            "NEGATIVE_TERM": functions.negative_term, "MINES": functions.mines(MINING), "SELF": True,
        } | product(tile, "BK"),
        tile.options(),
    )  # fmt: skip
    tile = configs.positive_tile(arch, dtype, width, precision)
    yield Variant(
        "pair_positives",
        pair_positives_kernel,
        {
            "p_x": matrix, "p_r": matrix, **spans, "p_order": "*i64", "p_norm": "*fp32", "p_poison": "*fp32",
            "p_most": "*fp32", "p_sum": "*fp32", "p_row": "*fp32", "p_loss": "*fp32", "p": p,
        } | ints | {"n_parts": "i32"},
        {
            "POSITIVE_THRESHOLD": functions.positive_threshold, "IS_POSITIVE": functions.is_positive,
            "POSITIVE_KEPT": functions.positive_kept, "POSITIVE_TERMS": functions.positive_terms,
            "FINISH": functions.finish, "SELF": True,
        } | product(tile, "BK"),
        tile.options(),
    )  # fmt: skip
    weights = {
        "IS_POSITIVE": functions.is_positive, "POSITIVE_KEPT": functions.positive_kept,
        "NEGATIVE_WEIGHT": functions.negative_weight, "POSITIVE_WEIGHT": functions.positive_weight,
        "MINES": functions.mines(MINING),
    }  # fmt: skip
    numbers = {"p_row": "*fp32", "p_scale": "*fp32"}
    owner = configs.row_owner_tile(arch, dtype, width, precision)
    if owner is not None:
        for name, own, other in (("self", True, True), ("anchors", True, False), ("candidates", False, True)):
            yield Variant(
                f"pair_row_gradients[{name}]",
                pair_row_gradients_kernel,
                {"p_x": matrix, "p_r": matrix, **spans, **numbers, "p_grad": "*fp32", "p": p} | ints,
                weights | {"SELF": own and other, "OWN": own, "OTHER": other} | product(owner, "BD"),
                owner.options(),
            )
        return
    tile = configs.block_tile(arch, dtype, width, precision)
    places = {"i_row0": "i32", "i_column0": "i32", "n_block_rows": "i32", "n_block_columns": "i32"}
    for name, own in (("self", True), ("anchors", False)):
        yield Variant(
            f"pair_weights[{name}]",
            pair_weights_kernel,
            {"p_x": matrix, "p_r": matrix, **spans, **numbers, "p_weight": matrix, "p": p} | ints | places,
            weights | {"SELF": own, "LD": 4096} | product(tile, "BK"),
            tile.options(),
        )


def compile_variant(variant: Variant, arch: str) -> Resources:
    """Compiles for ``arch``, which needs no device of it.

    Raises:
        RuntimeError: the kernels were imported under the interpreter.
    """
    kernel = variant.kernel
    if not isinstance(kernel, triton.runtime.JITFunction):
        raise RuntimeError("kernels that were imported under TRITON_INTERPRET=1 cannot be compiled")
    given = variant.arguments
    constants = {(kernel.arg_names.index(name),): value for name, value in variant.constants.items()}
    signature = {name: given.get(name, "constexpr") for name in kernel.arg_names}
    # torch aligns what it allocates, and the launchers specialise on that
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(kernel.arg_names)
        if name == "stride_row" or str(given.get(name, "")).startswith("*")
    }
    source = ASTSource(kernel, signature, constants, aligned)
    compiled = triton.compile(source, target=TARGETS[arch], options=variant.options)
    if arch.startswith("gfx"):
        return _resources_of_amdgcn(compiled.asm["amdgcn"], compiled.metadata.shared)
    registers, stack = _resources_of_cubin(compiled.asm["cubin"])
    return Resources(registers, stack, compiled.metadata.shared, compiled.asm["ptx"])


def _resources_of_cubin(cubin: bytes) -> tuple[int, int]:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [os.fspath(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return found["REG"], found["STACK"] + found["LOCAL"]


def _resources_of_amdgcn(text: str, shared: int) -> Resources:
    found = {key: int(value) for key, value in re.findall(r"\.(vgpr_count|vgpr_spill_count):\s+(\d+)", text)}
    return Resources(found["vgpr_count"], 4 * found["vgpr_spill_count"], shared, text)


def as_json(resources: Resources) -> str:
    """The numbers alone."""
    return json.dumps({key: value for key, value in resources._asdict().items() if key != "assembly"})
