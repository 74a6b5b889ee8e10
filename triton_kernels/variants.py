"""Every kernel in its shipped configurations, described for ahead-of-time compilation, and what it costs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastdml.rules import COSINE, Closeness, Selection
from fastdml.rules.base import PAIR_TERMS
from fastdml.triton_kernels import configs, ranks
from fastdml.triton_kernels.label_order import (
    COUNTED_COLUMNS,
    COUNTED_TILE,
    COUNTED_WARPS,
    label_order_kernel,
)
from fastdml.triton_kernels.pair_backward import pair_row_gradients_kernel
from fastdml.triton_kernels.pair_block import pair_positive_weights_kernel, pair_weights_kernel
from fastdml.triton_kernels.pair_call import PairCall
from fastdml.triton_kernels.pair_forward import pair_negatives_kernel, pair_positives_kernel
from fastdml.triton_kernels.proxy_backward import proxy_weights_kernel
from fastdml.triton_kernels.proxy_centres import pack_centres_kernel, unpack_gradients_kernel
from fastdml.triton_kernels.proxy_forward import proxy_sums_kernel
from fastdml.triton_kernels.proxy_spread import centre_distances_kernel, spread_gradients_kernel
from fastdml.triton_kernels.thresholds import (
    COLUMNS,
    GROUP,
    WARPS,
    threshold_sums_kernel,
    threshold_weights_kernel,
)
from fastdml.triton_kernels.units import (
    GATHERED_ROWS,
    row_gradients_kernel,
    sorted_gradients_kernel,
    squared_lengths_kernel,
    unit_rows_kernel,
)

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
# Strides of rows of numbers that are neighbours, as torch allocates them.
STRIDES = (
    "stride_row", "stride_centre", "stride_depth", "stride_out_centre", "stride_out_depth", "stride_weight",
)  # fmt: skip
MINED = Selection(relative=True, negative=0.1, positive=0.1)


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
    arch: str,
    dtype: torch.dtype,
    width: int,
    terms: str = "exponential",
    precision: str = "ieee",
    closeness: Closeness = COSINE,
    selection: Selection = MINED,
) -> Iterator[Variant]:
    """The pair engine's kernels for embeddings [N, width] of ``dtype``."""
    numbers = len(fields(PAIR_TERMS[terms]))  # type: ignore[arg-type]
    call = PairCall.of(terms, [0.0] * numbers, selection.constants(), closeness.code, precision)
    matrix = f"*{NAMES[dtype]}"
    bounds = dtype == torch.float16
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
    labels = {"p_label": "*i64", "p_other": "*i64", "p_order": "*i64", "p_span": "*i32"}
    labels |= dict.fromkeys(("n_rows", "n_others", "stride"), "i32")
    counted = {"BM": COUNTED_TILE, "BN": COUNTED_COLUMNS}
    for name, own in (("self", None), ("anchors", "*i64"), ("candidates", None)):
        yield Variant(
            f"label_order[{name}]",
            label_order_kernel,
            labels if own is None else labels | {"p_own": own},
            counted | {"SELF": name == "self"} | ({"p_own": None} if own is None else {}),
            {"num_warps": COUNTED_WARPS},
        )
    yield Variant(
        "sorted_gradients",
        sorted_gradients_kernel,
        {"p_grad": "*fp32", "p_order": "*i64", "p_norm": "*fp32", "p_longest": "*fp32", "p_out": "*fp32",
         "n_rows": "i32", "stride": "i32"},
        {"BM": GATHERED_ROWS},
        {"num_warps": 4},
    )  # fmt: skip
    if closeness.kind != "inner":
        yield Variant(
            "squared_lengths",
            squared_lengths_kernel,
            {"p_unit": matrix, "p_square": "*fp32", "n_rows": "i32"},
            {"D": width, "BM": rows.rows, "BK": rows.depth},
            rows.options(),
        )
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

    pairs: dict[str, Any] = {
        "p_x": matrix, "p_r": matrix, "p_start": "*i32", "p_end": "*i32", "p_own": "*i32", "p_row": "*fp32",
        "p": ("fp32",) * numbers, "limits": ("fp32",) * 3, "n_rows": "i32", "n_columns": "i32",
    }  # fmt: skip
    squares: dict[str, Any] = {"p_x_square": None, "p_r_square": None}
    if closeness.kind != "inner":
        pairs |= {"p_x_square": "*fp32", "p_r_square": "*fp32"}
        squares = {}

    def product(tile: configs.Tile, depth: str) -> dict[str, Any]:
        return squares | {"D": width, "BM": tile.rows, "BN": tile.columns, depth: tile.depth}

    tile = configs.forward_tile(arch, dtype, width, precision, call.light)
    yield Variant(
        "pair_negatives",
        pair_negatives_kernel,
        pairs | {"p_order": "*i64", "p_given": "*fp32", "p_part": "*fp32"},
        call.negative_sums() | {"BOUNDS": bounds} | product(tile, "BK"),
        tile.options(),
    )
    tile = configs.positive_tile(arch, dtype, width, precision, call.light)
    yield Variant(
        "pair_positives",
        pair_positives_kernel,
        pairs | {
            "p_order": "*i64", "p_given": "*fp32", "p_norm": "*fp32", "p_longest": "*fp32", "p_part": "*fp32",
            "p_statistic": "*fp32", "p_bound": "*fp32", "n_parts": "i32",
        },
        call.positive_sums() | {"BOUNDS": bounds} | product(tile, "BK"),
        tile.options(),
    )  # fmt: skip
    pairs |= {"p_grad": "*fp32"}
    owner = configs.row_owner_tile(arch, dtype, width, precision, call.light)
    if owner is not None:
        for name, own, other in (("self", True, True), ("anchors", True, False), ("candidates", False, True)):
            yield Variant(
                f"pair_row_gradients[{name}]",
                pair_row_gradients_kernel,
                pairs | {"p_out": "*fp32"},
                call.weights() | {"OWN": own, "OTHER": other} | product(owner, "BD"),
                owner.options(),
            )
        return
    places = dict.fromkeys(("i_row0", "i_column0", "n_block_rows", "n_block_columns", "stride_weight"), "i32")
    block = pairs | {"p_weight": matrix} | places
    alone = {"p_start", "p_end", "p_own", "limits"}  # that positives alone read
    kind = arch, dtype, width, precision, call.light
    for name, own in (("self", True), ("anchors", False)):
        tile = configs.block_tile(*kind)
        yield Variant(
            f"pair_weights[{name}]",
            pair_weights_kernel,
            {key: value for key, value in block.items() if key not in alone},
            call.negative_weights() | {"SELF": own} | product(tile, "BK"),
            tile.options(),
        )
        tile = configs.positive_block_tile(*kind)
        yield Variant(
            f"pair_positive_weights[{name}]",
            pair_positive_weights_kernel,
            block,
            call.positive_weights() | {"SELF": own} | product(tile, "BK"),
            tile.options(),
        )


def threshold_variants(closeness: Closeness, own: bool = True) -> Iterator[Variant]:
    """The kernels of the threshold statistics; ``own``: it is told which candidates are anchors."""
    squares = {"p_square": "*fp32", "p_ref_square": "*fp32"}
    given = squares | {
        "p_s": "*fp32", "p_label": "*i64", "p_ref_label": "*i64", "p_threshold": "*fp32", "p_offset": "*i64",
        "first": "i32", "n_columns": "i32",
    }  # fmt: skip
    constants: dict[str, Any] = {"KIND": closeness.code % 4, "BN": COLUMNS}
    if own:
        given |= {"p_own": "*i64"}
    else:
        constants |= {"p_own": None}
    options = {"num_warps": WARPS}
    sums = {"p_count": "*fp64", "p_sum": "*fp64", "n_thresholds": "i32"}
    yield Variant("threshold_sums", threshold_sums_kernel, given | sums, constants | {"BK": GROUP}, options)
    grad = {"p_grad": "*fp32"}
    yield Variant("threshold_weights", threshold_weights_kernel, given | grad, constants, options)


def rank_variants(dtype: str) -> Iterator[Variant]:
    """The kernel that counts ranks, of similarities "fp32" or "fp64"."""
    arguments = {"p_s": f"*{dtype}", "p_threshold": f"*{dtype}", "p_count": "*i32"}
    arguments |= dict.fromkeys(("p_start", "p_end", "p_own"), "*i32")
    arguments |= dict.fromkeys(("first", "n_columns", "n_thresholds"), "i32")
    constants = {"BK": ranks.GROUP, "BN": ranks.COLUMNS, "SPAN": ranks.SPAN}
    yield Variant(
        "count_reached", ranks.count_reached_kernel, arguments, constants, {"num_warps": ranks.WARPS}
    )


def proxy_variants(
    arch: str,
    dtype: torch.dtype,
    width: int,
    per_class: int,
    soft: bool,
    precision: str = "ieee",
    columns: bool = False,
    centres: torch.dtype = torch.float32,
) -> Iterator[Variant]:
    """The proxy engine's kernels for products of ``dtype`` with normalised ``centres`` of another."""
    matrix, parameter = f"*{NAMES[dtype]}", f"*{NAMES[centres]}"
    far, near = ("stride_depth", "stride_centre") if columns else ("stride_centre", "stride_depth")
    given = {"p_w": parameter, "p_norm": "*fp32", far: "i32"}
    places = dict.fromkeys(("first", "n_centres", "n_classes", "n_block", "n_per_class"), "i32")
    tile = configs.centre_tile(width, not columns)
    shape = {near: 1, "NORMALISED": True, "D": width, "BM": tile.rows, "BK": tile.depth}
    for name, measure in (("measured", True), ("again", False)):
        yield Variant(
            f"pack_centres[{name}]",
            pack_centres_kernel,
            given | places | {"p_out": matrix},
            shape | {"MEASURE": measure},
            tile.options(),
        )
    scaled = dtype == torch.float16
    out = {"p_grad": "*fp32", "p_out": parameter, far.replace("_", "_out_"): "i32"}
    yield Variant(
        "unpack_gradients",
        unpack_gradients_kernel,
        given | places | out | ({"p_unscale": "*fp32"} if scaled else {}),
        shape | {near.replace("_", "_out_"): 1} | ({} if scaled else {"p_unscale": None}),
        tile.options(),
    )
    tile = configs.proxy_tile(arch, dtype, width, precision, per_class)
    pool = {"K": per_class, "SOFT": soft}
    counts = dict.fromkeys(("n_rows", "n_classes", "n_places", "first"), "i32")
    yield Variant(
        "proxy_sums",
        proxy_sums_kernel,
        counts | {
            "p_x": matrix, "p_packed": matrix, "p_label": "*i64", "p_sum": "*fp32", "sharpness": "fp32",
            "exponent": "fp32",
        },
        pool | {
            "D": width, "BM": tile.rows, "BN": tile.columns, "BK": tile.depth, "PRECISION": precision
        },
        tile.options(),
    )  # fmt: skip
    tile = configs.PROXY_WEIGHTS
    counts = dict.fromkeys(("n_rows", "n_block_rows", "n_classes", "stride_row", "row0", "first"), "i32")
    yield Variant(
        "proxy_weights",
        proxy_weights_kernel,
        counts | {
            "p_s": "*fp32", "p_weight": matrix, "p_label": "*i64", "p_others": "*fp32", "p_grad": "*fp32",
            "scale": "fp32", "inverse": "fp32",
        },
        pool | {"BM": tile.rows, "BN": tile.columns},
        tile.options(),
    )  # fmt: skip
    tile = configs.centre_tile(width, not columns)
    shape = {near: 1, "D": width, "BM": tile.rows, "BK": tile.depth}
    yield Variant(
        "centre_distances",
        centre_distances_kernel,
        given | {"p_distance": "*fp32", "apart": "fp32"}
        | dict.fromkeys(("first", "n_centres", "n_per_class"), "i32"),
        shape,
        tile.options(),
    )  # fmt: skip
    yield Variant(
        "spread_gradients",
        spread_gradients_kernel,
        given | places | {"p_weight": "*fp32", "p_out": "*fp32"},
        shape,
        tile.options(),
    )


def alignment(variant: Variant) -> dict[tuple[int], list[list[Any]]]:
    """Which arguments are multiples of 16, by place: torch aligns what it allocates, and launches see it."""
    return {
        (parameter.num,): [["tt.divisibility", 16]]
        for parameter in variant.kernel.params
        if (kind := variant.arguments.get(parameter.name)) is not None
        and not parameter.do_not_specialize_on_alignment
        and (parameter.name in STRIDES or str(kind).startswith("*"))
    }


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
    source = ASTSource(kernel, signature, constants, alignment(variant))
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
