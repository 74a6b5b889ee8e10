"""Compiles csrc/cuda as plain C++, to be run on the host: the whole cuda backend without a GPU.

Only what touches the device is exchanged, by the headers under emulation/: launches, the current stream and
the matrix product. Blocks of similarities are made small, so that small batches span several.
"""

from __future__ import annotations

import fcntl
from pathlib import Path

import torch

from fastdml.backends import extension, native
from fastdml.backends.extension import plan

HERE = Path(__file__).resolve().parent
# Kept from run to run: a source that has not changed is not compiled again.
WORK = HERE.parents[1] / "build" / "cuda-emulation"
LIBRARY = f"libfastdml_cuda_emulated.{plan.SUFFIX}"
BLOCK_ROWS, BLOCK_COLUMNS, THRESHOLD_PAIRS = 96, 160, 2048
PROXY_SIMILARITIES, PROXY_SAMPLES = 2048, 32
CENTROID_PRODUCTS, CENTROID_ROWS = 1536, 24


def load() -> None:
    """Registers the emulated operators for tensors on the host; BuildError where no compiler is found."""
    csrc, found = native.sources(), extension.find_torch()
    assert csrc is not None
    assert found is not None
    compiler = extension.find_compiler()
    sources = [path for path in sorted((csrc / "cuda").iterdir()) if path.suffix in (".cu", ".cpp")]
    exchanged = ("launch_check.cpp", "library.cpp")
    sources = [path for path in sources if path.name not in exchanged] + [HERE / "emulation" / "library.cpp"]
    flags = (
        f"-std={plan.STANDARD}",
        "-O2",
        "-fPIC",
        "-fvisibility=hidden",
        "-Wno-unknown-pragmas",
        "-U_FORTIFY_SOURCE",  # its longjmp refuses to leave a fiber
        plan.TARGET,
        f"-DFASTDML_CUDA_BLOCK_ROWS={BLOCK_ROWS}",
        f"-DFASTDML_CUDA_BLOCK_COLUMNS={BLOCK_COLUMNS}",
        f"-DFASTDML_CUDA_THRESHOLD_PAIRS={THRESHOLD_PAIRS}",
        f"-DFASTDML_CUDA_PROXY_SIMILARITIES={PROXY_SIMILARITIES}",
        f"-DFASTDML_CUDA_PROXY_SAMPLES={PROXY_SAMPLES}",
        f"-DFASTDML_CUDA_CENTROID_PRODUCTS={CENTROID_PRODUCTS}",
        f"-DFASTDML_CUDA_CENTROID_ROWS={CENTROID_ROWS}",
        f"-I{HERE / 'emulation'}",  # before csrc, so that its headers win
        f"-I{csrc}",
        f"-isystem{found.include}",
    )
    steps = []
    for source in sources:
        output = f"{source.name}.o"
        command = (
            *compiler.command,
            *flags,
            "-MMD",
            f"-MF{output}.d",
            "-x",
            "c++",
            "-c",
            str(source),
            "-o",
            output,
        )
        steps.append(plan.Step(output, (str(source),), command, f"{output}.d"))
    objects = tuple(step.output for step in steps)
    link = (*compiler.command, "-shared", *objects, f"-L{found.lib}", "-ltorch_cpu", "-lc10", "-o", LIBRARY)
    WORK.mkdir(parents=True, exist_ok=True)
    with (WORK / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # processes that share the tests build it once
        extension.compile_objects([*steps, plan.Step(LIBRARY, objects, link)], WORK)
    torch.ops.load_library(str(WORK / LIBRARY))
