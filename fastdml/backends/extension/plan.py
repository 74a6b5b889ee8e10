"""Which commands make which library out of csrc/.

`cpu` holds csrc/library.cpp, csrc/cpu/*.cpp, and csrc/cpu/*_kernels.cpp once for each instruction set;
`cuda` holds csrc/cuda/*.cu and csrc/cuda/*.cpp. csrc/module.cpp becomes the Python module `_C`, part of cpu.
"""

from __future__ import annotations

import hashlib
import platform
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .toolchain import BuildError, Compiler, Cuda, Torch

Part = Literal["cpu", "cuda"]

SUFFIX = "dylib" if sys.platform == "darwin" else "so"
LIBRARY: dict[Part, str] = {"cpu": f"libfastdml_cpu.{SUFFIX}", "cuda": f"libfastdml_cuda.{SUFFIX}"}
MANIFEST: dict[Part, str] = {"cpu": "build_cpu.json", "cuda": "build_cuda.json"}
MODULE = "_C" + (sysconfig.get_config_var("EXT_SUFFIX") or ".so")

STANDARD = "c++20"
# The stable ABI of torch 2.10, which every later torch keeps.
TARGET = "-DTORCH_TARGET_VERSION=0x020a000000000000"
OPTIMISE = ("-O3", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
CXX_FLAGS = (f"-std={STANDARD}", *OPTIMISE, "-fPIC", "-fvisibility=hidden", "-Wall")
NVCC_FLAGS = (
    f"-std={STANDARD}",
    "-O3",
    "--expt-relaxed-constexpr",
    "-Xcompiler=-fPIC,-fvisibility=hidden,-fno-math-errno",
    "-DUSE_CUDA",
    TARGET,
)
X86_ISA = {
    "baseline": (),
    "avx2": ("-mavx2", "-mfma"),
    "avx512": (
        "-mavx512f",
        "-mavx512dq",
        "-mavx512vl",
        "-mavx512bw",
        "-mfma",
        "-mprefer-vector-width=512",
    ),
}
SOURCE_SUFFIXES = (".cpp", ".cu", ".cuh", ".h")


@dataclass(frozen=True)
class Step:
    """One command: compiles `inputs` into `output`, both relative to the work folder or absolute."""

    output: str
    inputs: tuple[str, ...]
    command: tuple[str, ...]
    depfile: str | None = None


@dataclass(frozen=True)
class Plan:
    """All steps of one part, the files that are kept, and the record that is written beside them."""

    part: Part
    steps: tuple[Step, ...]
    products: tuple[str, ...]
    family: str
    """Names sources, torch and Python; any compiler."""
    key: str
    """`family` plus the compiler and its flags: the name of the cache folder."""
    manifest: dict[str, Any] = field(hash=False)
    generated: tuple[tuple[str, str], ...] = ()
    """Files (name, text) to write into the work folder first."""


def source_hash(csrc: Path) -> str:
    """A hash of every source file's path and contents."""
    digest = hashlib.sha256()
    for path in sorted(csrc.rglob("*")):
        if path.suffix in SOURCE_SUFFIXES:
            digest.update(path.relative_to(csrc).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def isas() -> dict[str, tuple[str, ...]]:
    """The instruction sets that kernels are compiled for here, with their flags."""
    return X86_ISA if platform.machine() in ("x86_64", "AMD64") else {"baseline": ()}


def family_of(part: Part, csrc: Path, torch: Torch) -> str:
    """The cache name of a part up to the compiler that made it."""
    tag = sys.implementation.cache_tag or "python"
    return f"{part}-{source_hash(csrc)}-torch{torch.version}-{tag}-{platform.machine()}"


def plan_part(part: Part, csrc: Path, torch: Torch, compiler: Compiler, cuda: Cuda | None = None) -> Plan:
    """The plan of one part; BuildError where it has no sources or lacks its tools."""
    if part == "cpu":
        return _plan_cpu(csrc, torch, compiler)
    if torch.cuda is None:
        raise BuildError(f"torch {torch.version} is not a CUDA build")
    if cuda is None:
        raise BuildError("nvcc not found")
    return _plan_cuda(csrc, torch, compiler, cuda)


def cuda_objects(csrc: Path, torch: Torch, compiler: Compiler, cuda: Cuda) -> dict[str, Step]:
    """One compile step for each source of csrc/cuda, by file name; any torch will do, the CPU build too."""
    folder = csrc / "cuda"
    sources = [*sorted(folder.glob("*.cu")), *sorted(folder.glob("*.cpp"))]
    return {source.name: _nvcc_step(source, csrc, torch, compiler, cuda) for source in sources}


def _plan_cpu(csrc: Path, torch: Torch, compiler: Compiler) -> Plan:
    plain = [path for path in (csrc / "library.cpp",) if path.is_file()]
    kernels: list[Path] = []
    for path in sorted((csrc / "cpu").glob("*.cpp")):
        (kernels if path.stem.endswith("_kernels") else plain).append(path)
    if not plain:
        raise BuildError(f"no C++ sources under {csrc}")
    objects = [_cxx_step(path, csrc, torch, compiler, flags=(TARGET,)) for path in plain]
    for path in kernels:
        for isa, flags in isas().items():
            objects.append(_cxx_step(path, csrc, torch, compiler, isa, flags))
    names = tuple(step.output for step in objects)
    library = LIBRARY["cpu"]
    link = Step(library, names, (*compiler.command, *_link_flags(torch, "torch_cpu"), *names, "-o", library))
    steps, products = [*objects, link], [library]
    record = _record("cpu", csrc, torch, compiler, (*CXX_FLAGS, TARGET), {"isas": list(isas())})
    python_include = Path(sysconfig.get_paths()["include"])
    generated: tuple[tuple[str, str], ...] = ()
    if (csrc / "module.cpp").is_file() and (python_include / "Python.h").is_file():
        # pybind11 as torch ships it; torch forbids it beside TARGET.
        extra = ("-I.", f"-isystem{python_include}")
        module = _cxx_step(csrc / "module.cpp", csrc, torch, compiler, flags=extra)
        linked = (*compiler.command, *_link_flags(torch), module.output, "-o", MODULE)
        steps += [module, Step(MODULE, (module.output,), linked)]
        products.append(MODULE)
        generated = (("build_info.h", _build_info(record)),)
    return _finish("cpu", csrc, torch, steps, products, record, generated)


def _plan_cuda(csrc: Path, torch: Torch, compiler: Compiler, cuda: Cuda) -> Plan:
    objects = list(cuda_objects(csrc, torch, compiler, cuda).values())
    if not objects:
        raise BuildError(f"no CUDA sources under {csrc}")
    names = tuple(step.output for step in objects)
    library = LIBRARY["cuda"]
    head = (cuda.nvcc, "-shared", f"-ccbin={compiler.command[-1]}", f"-L{torch.lib}")
    link = Step(
        library, names, (*head, *cuda.gencode, *names, "-ltorch_cpu", "-ltorch_cuda", "-lc10", "-o", library)
    )
    extra = {"nvcc": cuda.version, "architectures": list(cuda.architectures), "cuda": torch.cuda}
    record = _record("cuda", csrc, torch, compiler, NVCC_FLAGS, extra)
    return _finish("cuda", csrc, torch, [*objects, link], [library], record)


def _cxx_step(
    source: Path,
    csrc: Path,
    torch: Torch,
    compiler: Compiler,
    isa: str | None = None,
    flags: tuple[str, ...] = (),
) -> Step:
    output = f"{source.relative_to(csrc).with_suffix('').as_posix().replace('/', '.')}"
    output += f".{isa}.o" if isa else ".o"
    define = (f"-DFASTDML_ISA={isa}",) if isa else ()
    depfile = f"{output}.d"
    command = (
        *compiler.command,
        *CXX_FLAGS,
        *flags,
        *define,
        f"-I{csrc}",
        f"-isystem{torch.include}",
        "-MMD",
        f"-MF{depfile}",
        "-c",
        str(source),
        "-o",
        output,
    )
    return Step(output, (str(source),), command, depfile)


def _nvcc_step(source: Path, csrc: Path, torch: Torch, compiler: Compiler, cuda: Cuda) -> Step:
    output = f"cuda.{source.name}.o"
    depfile = f"{output}.d"
    command = (
        cuda.nvcc,
        *NVCC_FLAGS,
        f"-ccbin={compiler.command[-1]}",
        *cuda.gencode,
        f"-I{csrc}",
        f"-isystem={torch.include}",
        "-MMD",
        f"-MF={depfile}",
        "-c",
        str(source),
        "-o",
        output,
    )
    return Step(output, (str(source),), command, depfile)


def _link_flags(torch: Torch, *libraries: str) -> tuple[str, ...]:
    # No rpath: torch is imported before these are loaded, and its libraries are then found by name.
    if sys.platform == "darwin":
        return ("-shared", "-undefined", "dynamic_lookup")
    return ("-shared", f"-L{torch.lib}", "-Wl,--no-as-needed", *(f"-l{name}" for name in libraries))


def _record(
    part: Part,
    csrc: Path,
    torch: Torch,
    compiler: Compiler,
    flags: tuple[str, ...],
    extra: dict[str, Any],
) -> dict[str, Any]:
    return {
        "part": part,
        "sources": source_hash(csrc),
        "torch": torch.version,
        "compiler": compiler.version,
        "standard": STANDARD,
        "flags": " ".join(flags),
        **extra,
    }


def _finish(
    part: Part,
    csrc: Path,
    torch: Torch,
    steps: list[Step],
    products: list[str],
    record: dict[str, Any],
    generated: tuple[tuple[str, str], ...] = (),
) -> Plan:
    family = family_of(part, csrc, torch)
    tools = hashlib.sha256(repr(sorted(record.items())).encode())
    for step in steps:
        tools.update(" ".join(step.command).replace(str(csrc), "csrc").encode())
    return Plan(
        part, tuple(steps), tuple(products), family, f"{family}-{tools.hexdigest()[:8]}", record, generated
    )


def _build_info(record: dict[str, Any]) -> str:
    """The header that tells csrc/module.cpp how it was built."""
    lines = ["// Generated.", "#pragma once"]
    for name in ("compiler", "standard", "flags", "torch", "sources"):
        text = str(record[name]).replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'#define FASTDML_BUILD_{name.upper()} "{text}"')
    lines.append(f'#define FASTDML_BUILD_ISAS "{" ".join(record["isas"])}"')
    return "\n".join(lines) + "\n"
