"""A csrc/ of a few lines, which compiles in a blink and needs none of torch's headers."""

from pathlib import Path

ANSWER = 'extern "C" __attribute__((visibility("default"))) int answer() { return 42; }\n'
KERNEL = """#define NAME_(isa) answer_##isa
#define NAME(isa) NAME_(isa)
extern "C" __attribute__((visibility("default"))) int NAME(FASTDML_ISA)() {
#if defined(__AVX512F__)
  return 512;
#elif defined(__AVX2__)
  return 2;
#else
  return 0;
#endif
}
"""


def write_sources(folder: Path) -> Path:
    """Writes the sample into `folder`/csrc and returns that."""
    csrc = folder / "csrc"
    (csrc / "cpu").mkdir(parents=True)
    (csrc / "library.cpp").write_text(ANSWER)
    (csrc / "cpu" / "sample_kernels.cpp").write_text(KERNEL)
    return csrc
