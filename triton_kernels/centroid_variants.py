"""The centroid engine's kernels in their shipped configurations, described for ahead-of-time compilation."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fastdml.triton_kernels import configs
from fastdml.triton_kernels.centroid_hinge_backward import hinge_weights_kernel, largest_hinge_weight_kernel
from fastdml.triton_kernels.centroid_hinge_forward import hinge_sums_kernel
from fastdml.triton_kernels.centroid_listed import listed_distances_kernel, listed_row_gradients_kernel
from fastdml.triton_kernels.centroid_nearest import nearest_others_kernel
from fastdml.triton_kernels.centroid_segments import piece_sums_kernel, segment_sums_kernel
from fastdml.triton_kernels.variants import NAMES, Variant


def centroid_variants(
    arch: str,
    dtype: torch.dtype,
    width: int,
    kept: int = 8,
    precision: str = "ieee",
    sums: torch.dtype = torch.float32,
) -> Iterator[Variant]:
    """The centroid engine's kernels for products of ``dtype``; rows keep ``kept`` points, sums a dtype."""
    matrix = f"*{NAMES[dtype]}"
    sides = {"p_x": matrix, "p_r": matrix, "p_x_square": "*fp32", "n_rows": "i32", "n_points": "i32"}

    tile = configs.centroid_tile(arch, dtype, width, precision)
    product = {"D": width, "BM": tile.rows, "BN": tile.columns, "BK": tile.depth, "PRECISION": precision}
    yield Variant(
        "nearest_others",
        nearest_others_kernel,
        sides
        | {
            "p_half": "*fp32",
            "p_start": "*i32",
            "p_end": "*i32",
            "p_key": "*fp32",
            "p_index": "*i32",
            "k": "i32",
        },
        {"KP": kept} | product,
        tile.options(),
    )
    tile = configs.hinge_tile(arch, dtype, width, precision)
    product |= {"BM": tile.rows, "BN": tile.columns, "BK": tile.depth}
    limits = {"p_own": "*i64", "p_limit": "*fp32"}
    yield Variant(
        "hinge_sums",
        hinge_sums_kernel,
        sides | limits | {"p_r_square": "*fp32", "p_sum": "*fp32"},
        product,
        tile.options(),
    )
    tile = configs.HINGE_WEIGHTS
    block = limits | {"p_s": "*fp32", "p_x_square": "*fp32", "p_r_square": "*fp32", "p_grad": "*fp32"}
    block |= dict.fromkeys(("n_block_rows", "n_block_points", "stride_row", "row0", "point0"), "i32")
    shape = {"BM": tile.rows, "BN": tile.columns}
    scaled = dtype == torch.float16
    if scaled:
        yield Variant(
            "largest_hinge_weight",
            largest_hinge_weight_kernel,
            block | {"p_largest": "*fp32"},
            shape,
            tile.options(),
        )
    yield Variant(
        "hinge_weights",
        hinge_weights_kernel,
        block | {"p_weight": matrix, "p_row_sum": "*fp32", "p_point_sum": "*fp32"}
        | ({"p_unscale": "*fp32"} if scaled else {}),
        shape | ({} if scaled else {"p_unscale": None}),
        tile.options(),
    )  # fmt: skip
    tile = configs.row_tile(width)
    listed = {"p_x": "*fp32", "p_r": "*fp32", "p_listed": "*i64", "p_out": "*fp32", "n_listed": "i32"}
    shape = {"D": width, "BM": tile.rows, "BK": tile.depth}
    yield Variant(
        "listed_distances", listed_distances_kernel, listed | {"n_pairs": "i32"}, shape, tile.options()
    )
    yield Variant(
        "listed_row_gradients",
        listed_row_gradients_kernel,
        listed | {"n_rows": "i32", "p_weight": "*fp32"},
        shape,
        tile.options(),
    )
    yield from _segment_variants(width, sums)


def _segment_variants(width: int, sums: torch.dtype) -> Iterator[Variant]:
    """Sums over classes in ``sums``, and over the places where points are listed."""
    tile = configs.segment_tile(width)
    shape = {"D": width, "BE": tile.rows, "BD": tile.depth}
    for name, dtype, weighted in (("classes", sums, False), ("listed", torch.float32, True)):
        kept = "*fp64" if dtype == torch.float64 else "*fp32"
        points = {"p_weight": "*fp32", "p_point": "*fp32"}
        entries = {"p_x": "*fp32", "p_order": "*i64", "p_start": "*i64", "p_first": "*i64", "p_part": kept}
        entries |= {"n_listed": "i32"} | (points if weighted else {})
        constants = shape | ({} if weighted else dict.fromkeys(points))
        yield Variant(
            f"piece_sums[{name}]",
            piece_sums_kernel,
            entries | {"p_owner": "*i64", "n_segments": "i32", "piece": "i32"},
            constants,
            tile.options(),
        )
        yield Variant(
            f"segment_sums[{name}]",
            segment_sums_kernel,
            entries | {"p_out": kept},
            constants,
            tile.options(),
        )
