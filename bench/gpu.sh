#!/usr/bin/env bash
# Everything that only a GPU can show, in one command, on a machine without a network:
#
#   bench/gpu.sh                     all stages
#   bench/gpu.sh build prove         some of them, so that each call fits a time limit
#
# Stages, in their order:
#   build     installs this checkout in place, builds the native extension for the GPU here
#   doctor    what is installed, built and chosen
#   tests     the tests of kernels, engines, losses and backends
#   sanitize  compute-sanitizer (memcheck, racecheck, initcheck) over every kernel
#   prove     accuracy, bitwise repeat, sizes past 2^31, streams, graphs, no host waits, torch.compile, autocast
#   measure   device ceilings; time and peak memory of every contestant over N and D
#   losses    the same for every pair loss, each against Multi-Similarity and pytorch-metric-learning
#   retrieve  the same for Recall@K, then of a set as large as Stanford Online Products
#   profile   ncu over one large batch, where ncu is installed
#
# OUT             folder of the results (default: bench/results/<device>); logs go there too if it is given,
#                 else to build/gpu. What bench/results/<device> already holds of this commit is not measured again.
# FASTDML_COMMIT  the commit, where the checkout travels without its repository; a trailing + says it was changed
# PYTHON          the interpreter that has torch (default: python3)
# WHEELS          folder of wheels to install first, such as pytorch-metric-learning's; without it PML's rows say absent
# BACKENDS        default: triton,cuda
# SECONDS_LIMIT   seconds that `measure` may take (default: 480)
# DRY             1: the stages prove, measure, losses and retrieve on the CPU with tiny sizes, to see that they run
# MEASURE         further arguments of bench.gpu.measure, such as "--widths 512 --dtypes bfloat16,float32"
set -uo pipefail
cd "$(dirname "$0")/.."

python="${PYTHON:-python3}"
device=cuda
tiny=()
if [ -n "${DRY:-}" ]; then
  device=cpu
  tiny=(--device cpu --tiny)
  BACKENDS="${BACKENDS:-cpu}"
  OUT="${OUT:-build/gpu-dry}"
fi
backends="${BACKENDS:-triton,cuda}"
export PYTHONUNBUFFERED=1
if [ -z "${FASTDML_COMMIT:-}" ] && commit="$(git rev-parse HEAD 2>/dev/null)"; then
  [ -z "$(git status --porcelain -- . ':!bench/results' ':!docs' ':!README.md')" ] || commit="$commit+"
  export FASTDML_COMMIT="$commit"
fi

failed=""
stage() {  # stage NAME COMMAND...: runs it, and goes on after a failure
  local name="$1" begun="$SECONDS"
  shift
  echo "== $name"
  if "$@"; then echo "== $name: done in $((SECONDS - begun)) s"; else
    echo "== $name: FAILED after $((SECONDS - begun)) s"
    failed="$failed $name"
  fi
}

build() {
  if [ -n "${WHEELS:-}" ]; then
    "$python" -m pip install -q --no-index --no-deps --target build/wheels "$WHEELS"/*.whl || return 1
  fi
  FASTDML_BUILD_EXT=1 "$python" -m pip install -q --no-deps --no-build-isolation --no-index -e . && return 0
  # Where the environment cannot be written to, or its setuptools is too old: triton_kernels beside the package it
  # belongs to, and the libraries built on first use.
  echo "pip could not install in place; building in the user's cache"
  ln -sfn ../triton_kernels fastdml/triton_kernels
  FASTDML_BUILD_EXT=1 "$python" -c 'import sys; from fastdml.backends import native
reasons = [native.load(part).reason for part in ("cpu", "cuda")]
sys.exit("; ".join(filter(None, reasons)) or 0)'
}

tests() {
  local folders=()
  for name in rules triton_kernels cuda backends engines losses retrieval bench; do
    [ -d "tests/$name" ] && folders+=("tests/$name")
  done
  "$python" -m pytest -q -p no:cacheprovider "${folders[@]}" 2>&1 | tee "$logs/tests.txt"
}

sanitize() {
  "$python" -m bench.gpu.sanitizer --backends "$backends" --log "$logs/sanitizer.txt" --out "$out/gpu_sanitizer.json"
}

prove() {
  local status=0
  for backend in ${backends//,/ }; do
    [ -n "${DRY:-}" ] || "$python" -m bench.gpu.kernels --backend "$backend" --list || status=1
  done
  "$python" -m bench.gpu.prove "${tiny[@]}" --backends "$backends" --out "$out/gpu_proof.json" || status=1
  return "$status"
}

measure() {
  # shellcheck disable=SC2086
  "$python" -m bench.gpu.measure "${tiny[@]}" --seconds "${SECONDS_LIMIT:-480}" --out "$out/pair_multi_similarity.json" \
    --csv "$logs/pair_multi_similarity.csv" ${MEASURE:-}
}

contest() {  # contest NAME: the benchmarks of bench/test_NAME.py
  local sizes=--bench-full
  [ -z "${DRY:-}" ] || sizes=--bench-tiny
  "$python" -m pytest "bench/test_$1.py" --benchmark-only -q --bench-device "$device" "$sizes" \
    --bench-results "$out/.." -p no:cacheprovider
}

losses() { contest losses; }

retrieve() {
  local status=0
  contest retrieval || status=1
  "$python" -m bench.retrieval_sop "${tiny[@]}" --results "$out/.." || status=1
  return "$status"
}

profile() {
  command -v ncu >/dev/null || { echo "ncu is not installed"; return 0; }
  for backend in ${backends//,/ }; do
    ncu --clock-control none --kernel-name 'regex:_kernel' --launch-count 24 --section SpeedOfLight \
      --section LaunchStats --section Occupancy --section MemoryWorkloadAnalysis \
      "$python" -m bench.gpu.kernels --backend "$backend" --samples 16384 --width 512
  done >"$logs/profile.txt" 2>&1
  grep -E '_kernel|Duration|Throughput|Registers|Spill' "$logs/profile.txt" | head -60
}

if [ "$#" -eq 0 ] && [ -n "${DRY:-}" ]; then set -- prove measure losses retrieve; fi
[ "$#" -gt 0 ] || set -- build doctor tests sanitize prove measure losses retrieve profile
mkdir -p build
[ -d build/wheels ] || [ -n "${WHEELS:-}" ] && export PYTHONPATH="$PWD/build/wheels${PYTHONPATH:+:$PYTHONPATH}"
if [ "$1" = build ]; then
  stage build build
  shift
fi
[ "$#" -gt 0 ] || { [ -z "$failed" ] && exit 0 || exit 1; }

slug="$("$python" -c 'import sys; from bench import machine; print(machine.slug(sys.argv[1]))' "$device")" || exit 1
logs="${OUT:-build/gpu}"
out="${OUT:-bench/results}/$slug"
mkdir -p "$out" "$logs"
# Goes on from what is there.
for file in bench/results/"$slug"/*.json; do
  [ -e "$file" ] && [ ! -e "$out/$(basename "$file")" ] && cp "$file" "$out/"
done

for name in "$@"; do
  case "$name" in
    build | tests | sanitize | prove | measure | losses | retrieve | profile) stage "$name" "$name" ;;
    doctor) stage doctor "$python" -m fastdml doctor ;;
    *) echo "no such stage: $name (build doctor tests sanitize prove measure losses retrieve profile)" >&2; exit 2 ;;
  esac
done
[ -z "$failed" ] || { echo "failed:$failed"; exit 1; }
