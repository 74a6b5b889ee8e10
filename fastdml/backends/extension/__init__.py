"""Finds compilers and turns csrc/ into shared libraries; needs nothing but the standard library.

setup.py loads this package by its path (torch may be invisible there), `fastdml.backends.native` imports
it. toolchain.py finds what there is, plan.py says what to run, compile.py runs it, cache.py keeps the result.
"""

from .cache import cache_root, cached, ensure
from .compile import build, compile_objects
from .plan import (
    LIBRARY,
    MANIFEST,
    Part,
    Plan,
    cuda_objects,
    plan_part,
    source_hash,
)
from .toolchain import (
    BuildError,
    Compiler,
    Cuda,
    Torch,
    build_mode,
    find_compiler,
    find_cuda,
    find_nvcc,
    find_torch,
)

__all__ = [
    "LIBRARY",
    "MANIFEST",
    "BuildError",
    "Compiler",
    "Cuda",
    "Part",
    "Plan",
    "Torch",
    "build",
    "build_mode",
    "cache_root",
    "cached",
    "compile_objects",
    "cuda_objects",
    "ensure",
    "find_compiler",
    "find_cuda",
    "find_nvcc",
    "find_torch",
    "plan_part",
    "source_hash",
]
