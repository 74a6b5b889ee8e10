#!/usr/bin/env bash
# Everything that only a GPU can show, in one command, on a machine without a network:
#
#   bench/gpu.sh                     all stages
#   bench/gpu.sh build prove         some of them, so that each call fits a time limit
#
# Stages, in their order:
#   build     installs this checkout in place, builds the native extension for the GPU here
#   doctor    what is installed, built and chosen
#   tests     the tests of kernels, engines, losses and backends; those that Triton's interpreter runs elsewhere run
#             on the GPU
#   sanitize  compute-sanitizer (memcheck, racecheck, initcheck) over every kernel
#   prove     of each engine: accuracy, bitwise repeat, sizes past 2^31, streams, graphs, no host waits,
#             torch.compile, autocast
#   measure   device ceilings; time and peak memory of every contestant over N and D
#   losses    the same for every pair loss, each against Multi-Similarity and pytorch-metric-learning
#   proxies   the same for every loss with centres; SoftTriple over batch and classes against its dense form
#   centroids the same for FAT, against its dense form and one product
#   training  what cached gradients cost; how much of a step of 65,536 images or features the loss takes
#   study     the demo, then a real run: Recall@1, time and memory of batches of 256 to 65,536 images, trained in
#             bf16 with fastdml and with the dense form as far as that fits (needs GLYPHS)
#   choices   tiles, blocks and numbers of programs of the Triton kernels of pairs and of proxies against others
#   retrieve  the same for Recall@K, then of a set as large as Stanford Online Products
#   profile   ncu over one large batch, where ncu is installed
#
# OUT             folder of the results (default: bench/results/<device>); logs go there too if it is given,
#                 else to build/gpu. What bench/results/<device> already holds of this commit is not measured again.
# FASTDML_COMMIT  the commit, where the checkout travels without its repository; a trailing + says it was changed
# PYTHON          the interpreter that has torch (default: python3)
# WHEELS          folder of wheels to install first, such as pytorch-metric-learning's; without it PML's rows say absent
# BACKENDS        default: triton,cuda
# ENGINES         what sanitize, prove and profile are about (default: pair,proxy,centroid)
# GLYPHS          folder that `fastdml data make glyphs-large` made (default: build/glyphs-large); without it
#                 there is no real run
# SECONDS_LIMIT   seconds that `measure` may take, and after which `study` begins no run (default: 480); the
#                 same command goes on with those left out
# DRY             1: prove, measure, losses, proxies, centroids, training, study, choices and retrieve on the CPU
#                 with tiny sizes, to see that they run
# JOBS            processes that share the tests, where pytest-xdist is installed (default: 8)
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
engines="${ENGINES:-pair,proxy,centroid}"
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

doctor() { "$python" -m fastdml doctor; }

tests() {
  local folders=()
  for name in rules triton_kernels cuda backends engines losses retrieval bench; do
    [ -d "tests/$name" ] && folders+=("tests/$name")
  done
  # Each process compiles kernels of its own, and a GPU holds the small batches of all.
  local workers=()
  "$python" -c 'import xdist' 2>/dev/null && workers=(-n "${JOBS:-8}" --dist worksteal)
  OMP_NUM_THREADS=1 "$python" -m pytest -q -p no:cacheprovider "${workers[@]}" "${folders[@]}" 2>&1 | tee "$logs/tests.txt"
}

sanitize() {
  local status=0
  for engine in ${engines//,/ }; do
    "$python" -m bench.gpu.sanitizer --backends "$backends" --engine "$engine" \
      --log "$logs/sanitizer_$engine.txt" --out "$out/gpu_sanitizer_$engine.json" || status=1
  done
  return "$status"
}

prove() {
  local status=0
  for backend in ${backends//,/ }; do
    [ -n "${DRY:-}" ] || "$python" -m bench.gpu.kernels --backend "$backend" --list || status=1
  done
  for engine in ${engines//,/ }; do
    "$python" -m bench.gpu.prove "${tiny[@]}" --backends "$backends" --engine "$engine" \
      --out "$out/gpu_proof_$engine.json" || status=1
  done
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

proxies() {
  local status=0
  contest proxy_losses || status=1
  "$python" -m bench.gpu.proxy_classes "${tiny[@]}" --out "$out/soft_triple_classes.json" || status=1
  return "$status"
}

centroids() { contest fat; }

training() {
  local status=0
  "$python" -m bench.large_batch "${tiny[@]}" --out "$out/.." || status=1
  "$python" -m bench.gpu.step_share "${tiny[@]}" --out "$out/step_share.json" || status=1
  return "$status"
}

study() {
  local begun="$SECONDS" status=0 glyphs="${GLYPHS:-build/glyphs-large}" runs="build/batch-study/$slug"
  local demo=() sizes=(--precision bf16)
  if [ -n "${DRY:-}" ]; then
    glyphs=glyphs  # those built in
    runs="$(mktemp -d)"
    demo=(--steps 1 --panel-seconds 0)
    sizes=(--batches 64 --budget 128 --start-steps 2 --width 4)
  fi
  "$python" -m fastdml demo --device "$device" --out "$logs/demo" --overwrite --no-open "${demo[@]}" || status=1
  if [ -z "${DRY:-}" ] && [ ! -d "$glyphs" ]; then
    echo "no real run: $glyphs is not there; set GLYPHS to what 'fastdml data make glyphs-large' has made"
    return "$status"
  fi
  "$python" -m tools.batch_study --data "$glyphs" --device "$device" --forms fastdml,dense "${sizes[@]}" \
    --seconds "$((${SECONDS_LIMIT:-480} - SECONDS + begun))" --runs "$runs" --out "$out" --name batch_study ||
    status=1
  [ -z "${DRY:-}" ] || rm -r "$runs"
  return "$status"
}

choices() {
  local backend=triton status=0
  [ -z "${DRY:-}" ] || backend=cpu
  for engine in pair proxy; do
    "$python" -m "bench.gpu.${engine}_choices" "${tiny[@]}" --backend "$backend" \
      --out "$out/${engine}_choices.json" || status=1
  done
  return "$status"
}

retrieve() {
  local status=0
  contest retrieval || status=1
  "$python" -m bench.retrieval_sop "${tiny[@]}" --results "$out/.." || status=1
  return "$status"
}

profile() {
  command -v ncu >/dev/null || { echo "ncu is not installed"; return 0; }
  for backend in ${backends//,/ }; do
    for engine in ${engines//,/ }; do
      ncu --clock-control none --kernel-name 'regex:_kernel' --launch-count 24 --section SpeedOfLight \
        --section LaunchStats --section Occupancy --section MemoryWorkloadAnalysis \
        "$python" -m bench.gpu.kernels --backend "$backend" --engine "$engine" --samples 16384 --width 512
    done
  done >"$logs/profile.txt" 2>&1
  grep -E '_kernel|Duration|Throughput|Registers|Spill' "$logs/profile.txt" | head -120
}

measured="prove measure losses proxies centroids training study choices retrieve"
all="build doctor tests sanitize $measured profile"
# shellcheck disable=SC2086
if [ "$#" -eq 0 ]; then
  if [ -n "${DRY:-}" ]; then set -- $measured; else set -- $all; fi
fi
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
  case " $all " in
    *" $name "*) stage "$name" "$name" ;;
    *) echo "no such stage: $name ($all)" >&2; exit 2 ;;
  esac
done
[ -z "$failed" ] || { echo "failed:$failed"; exit 1; }
