#!/usr/bin/env bash
# Everything that only a GPU can show, in one command, on a machine without a network:
#
#   bench/gpu.sh                     all stages
#   bench/gpu.sh build prove         some of them, so that each call fits a time limit
#
# Stages, in their order:
#   build     installs this checkout in place, builds the native extension for the GPU here
#   doctor    what is installed, built and chosen
#   headline  fastdml alone at three sizes of Multi-Similarity, so that there is a figure whatever comes
#   warm      compiles what later stages run, on all cores
#   prove     of each engine: accuracy, bitwise repeat, sizes past 2^31, streams, graphs, no host waits,
#             torch.compile, autocast
#   tests     the tests that Triton's interpreter runs elsewhere, on the GPU
#   sanitize  compute-sanitizer (memcheck, racecheck, initcheck) over every kernel
#   measure   device ceilings; time and peak memory of every contestant over N and D
#   losses    the same for every pair loss, each against Multi-Similarity and pytorch-metric-learning
#   proxies   the same for every loss with centres; SoftTriple over batch and classes against its dense form
#   centroids the same for FAT, against its dense form and one product
#   retrieve  the same for Recall@K, then of a set as large as Stanford Online Products
#   choices   tiles, blocks and numbers of programs of the Triton kernels of pairs and of proxies against others
#   training  what cached gradients cost; how much of a step of 65,536 images or features the loss takes
#   study     the demo, then a real run: Recall@1, time and memory of batches of 256 to 65,536 images, trained in
#             bf16 with fastdml and with the dense form as far as that fits (needs GLYPHS)
#   profile   ncu over one large batch, where ncu is installed
#   suite     the whole test suite
#
# A lent device is counted in minutes. Every stage ends in time and keeps what it has; the same command goes on:
# bench/results/<device> is read first, and sizes that it holds of this commit are not measured again.
#
# SECONDS_LIMIT   of the whole call (default: none); what does not fit is named at the end
# STAGE_SECONDS   of each stage, build and suite apart (default: 480)
# JOBS            processes that compile, prove and test (default: the cores)
# OUT             folder of the results (default: bench/results/<device>); logs go there too if it is given,
#                 else to build/gpu
# FASTDML_COMMIT  the commit, where the checkout travels without its repository; a trailing + says it was changed
# PYTHON          the interpreter that has torch (default: python3)
# WHEELS          folder of wheels to install first, such as pytorch-metric-learning's; without it PML's rows say absent
# BACKENDS        default: triton,cuda
# ENGINES         what prove, sanitize and profile are about (default: pair,proxy,centroid)
# WARM            what is compiled ahead (default: kernels,contests,choices); prove, tests and sanitize take kernels
# GLYPHS          folder that `fastdml data make glyphs-large` made (default: build/glyphs-large); without it
#                 there is no real run
# DRY             1: the stages that need no GPU to be tried, on the CPU with tiny sizes
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
headliners="fastdml-${backends//,/,fastdml-}"
engines="${ENGINES:-pair,proxy,centroid}"
export PYTHONUNBUFFERED=1
if [ -z "${FASTDML_COMMIT:-}" ] && commit="$(git rev-parse HEAD 2>/dev/null)"; then
  [ -z "$(git status --porcelain -- . ':!bench/results' ':!docs' ':!README.md')" ] || commit="$commit+"
  export FASTDML_COMMIT="$commit"
fi

limit="${SECONDS_LIMIT:-1000000}"
jobs="${JOBS:-$(nproc)}"
broken_off=3  # what commands end with that had more to do than time
failed="" unfinished="" stage_end=0

left() { echo $((stage_end - SECONDS)); }  # seconds of this stage

run() {  # run MODULE ARGUMENTS...: stopped, as by Ctrl-C, where the stage ends
  local seconds
  seconds="$(left)"
  if [ "$seconds" -lt 1 ]; then
    echo "no time left for $1"
    return "$broken_off"
  fi
  timeout --foreground -s INT -k 20 "$seconds" "$python" -m "$@"
}

attempt() {  # attempt COMMAND...: the worst so far is left in the caller's `status`; a failure is worse than no time
  "$@"
  case "$?" in
    0) ;;
    "$broken_off" | 124 | 137) [ "$status" -eq 1 ] || status="$broken_off" ;;
    *) status=1 ;;
  esac
}

stage() {  # stage NAME: runs it, and goes on after a failure
  local name="$1" begun="$SECONDS" status=0
  stage_end=$((SECONDS + ${STAGE_SECONDS:-480}))
  if [ "$name" = build ] || [ "$name" = suite ]; then stage_end="$limit"; fi
  [ "$stage_end" -le "$limit" ] || stage_end="$limit"
  if [ "$(left)" -lt 5 ]; then
    unfinished="$unfinished $name"
    return
  fi
  echo "== $name, $(left) s at most"
  attempt "$name"
  if [ "$status" -eq "$broken_off" ]; then
    echo "== $name: not through after $((SECONDS - begun)) s"
    unfinished="$unfinished $name"
  elif [ "$status" -eq 0 ]; then
    echo "== $name: done in $((SECONDS - begun)) s"
  else
    echo "== $name: FAILED after $((SECONDS - begun)) s"
    failed="$failed $name"
  fi
}

build() {
  if [ -n "${WHEELS:-}" ]; then
    "$python" -m pip install -q --no-index --no-deps --target build/wheels "$WHEELS"/*.whl || return 1
  fi
  local parts=cpu
  case ",$backends," in *,cuda,*) parts="cpu cuda" ;; esac
  if ! FASTDML_BUILD_EXT=auto run pip install -q --no-deps --no-build-isolation --no-index -e .; then
    # Where the environment cannot be written to, or its setuptools is too old: triton_kernels beside the package
    # it belongs to, and the libraries built on first use.
    echo "pip could not install in place; building in the user's cache"
    ln -sfn ../triton_kernels fastdml/triton_kernels
  fi
  # pip says nothing where a part could not be built
  "$python" -c 'import sys; from fastdml.backends import native
reasons = [native.load(part).reason for part in sys.argv[1:]]
sys.exit("; ".join(filter(None, reasons)) or 0)' $parts && return 0
  tail -n 40 build/native/*/build.log
  return 1
}

doctor() { run fastdml doctor; }

headline() {
  run bench.gpu.measure "${tiny[@]}" --providers "${headliners}" --headline --seconds "$(left)" \
    --out "$out/pair_multi_similarity.json"
}

warm() {
  OMP_NUM_THREADS=1 run bench.gpu.warm "${tiny[@]}" --backend "${backends%%,*}" --jobs "$jobs" \
    --what "${WARM:-kernels,contests,choices}" --seconds "$(($(left) - 20))"
}

prove() {
  local status=0
  OMP_NUM_THREADS=1 attempt run bench.gpu.prove "${tiny[@]}" --backends "$backends" --engines "$engines" \
    --jobs "$jobs" --seconds "$(($(left) - 20))" --out "$out/gpu_proof.json"
  for backend in ${backends//,/ }; do
    [ -n "${DRY:-}" ] || attempt run bench.gpu.kernels --backend "$backend" --list
  done
  return "$status"
}

pytests() {  # pytests LOG ARGUMENTS...
  local workers=() log="$1"
  shift
  "$python" -c 'import xdist' 2>/dev/null && workers=(-n "$jobs" --dist worksteal)
  OMP_NUM_THREADS=1 run pytest -q -p no:cacheprovider "${workers[@]}" "$@" 2>&1 | tee "$logs/$log.txt"
}

tests() {
  pytests tests tests/triton_kernels tests/cuda tests/backends --ignore-glob='*_ahead_of_time.py' -k 'not emulated'
}

suite() { pytests suite tests; }

sanitize() {
  run bench.gpu.sanitizer --backends "$backends" --engines "$engines" --jobs "$(((jobs + 1) / 2))" \
    --seconds "$(($(left) - 10))" --log "$logs/sanitizer.txt" --out "$out/gpu_sanitizer.json"
}

measure() {
  # shellcheck disable=SC2086
  run bench.gpu.measure "${tiny[@]}" --seconds "$(left)" --out "$out/pair_multi_similarity.json" \
    --csv "$logs/pair_multi_similarity.csv" ${MEASURE:-}
}

contest() {  # contest NAME: the benchmarks of bench/test_NAME.py
  local sizes=--bench-full
  [ -z "${DRY:-}" ] || sizes=--bench-tiny
  run pytest "bench/test_$1.py" --benchmark-only -q --bench-device "$device" "$sizes" \
    --bench-results "$out/.." -p no:cacheprovider
}

losses() { contest losses; }

proxies() {
  local status=0
  attempt contest proxy_losses
  attempt run bench.gpu.proxy_classes "${tiny[@]}" --out "$out/soft_triple_classes.json"
  return "$status"
}

centroids() { contest fat; }

retrieve() {
  local status=0
  attempt run bench.retrieval_sop "${tiny[@]}" --results "$out/.."
  attempt contest retrieval
  return "$status"
}

choices() {
  local backend=triton status=0
  [ -z "${DRY:-}" ] || backend=cpu
  for engine in pair proxy; do
    attempt run "bench.gpu.${engine}_choices" "${tiny[@]}" --backend "$backend" --seconds "$(($(left) / 2))" \
      --out "$out/${engine}_choices.json"
  done
  return "$status"
}

training() {
  local status=0
  attempt run bench.gpu.step_share "${tiny[@]}" --out "$out/step_share.json"
  attempt run bench.large_batch "${tiny[@]}" --out "$out/.."
  return "$status"
}

study() {
  local status=0 glyphs="${GLYPHS:-build/glyphs-large}" runs="build/batch-study/$slug"
  local demo=() sizes=(--precision bf16)
  if [ -n "${DRY:-}" ]; then
    glyphs=glyphs  # those built in
    runs="$(mktemp -d)"
    demo=(--steps 1 --panel-seconds 0)
    sizes=(--batches 64 --budget 128 --start-steps 2 --width 4)
  fi
  attempt run fastdml demo --device "$device" --out "$logs/demo" --overwrite --no-open "${demo[@]}"
  if [ -z "${DRY:-}" ] && [ ! -d "$glyphs" ]; then
    echo "no real run: $glyphs is not there; set GLYPHS to what 'fastdml data make glyphs-large' has made"
    return "$status"
  fi
  attempt run tools.batch_study --data "$glyphs" --device "$device" --forms fastdml,dense "${sizes[@]}" \
    --seconds "$(left)" --runs "$runs" --out "$out" --name batch_study
  [ -z "${DRY:-}" ] || rm -r "$runs"
  return "$status"
}

profile() {
  local status=0 seconds
  command -v ncu >/dev/null || { echo "ncu is not installed"; return 0; }
  : >"$logs/profile.txt"
  for backend in ${backends//,/ }; do
    for engine in ${engines//,/ }; do
      seconds="$(left)"
      [ "$seconds" -ge 1 ] || return "$((status == 1 ? 1 : broken_off))"
      attempt timeout --foreground -k 5 "$seconds" ncu --clock-control none --kernel-name 'regex:_kernel' \
        --launch-count 24 --section SpeedOfLight --section LaunchStats --section Occupancy --section MemoryWorkloadAnalysis \
        "$python" -m bench.gpu.kernels --backend "$backend" --engine "$engine" --samples 16384 --width 512 \
        >>"$logs/profile.txt" 2>&1
    done
  done
  grep -m 120 -E '_kernel|Duration|Throughput|Registers|Spill' "$logs/profile.txt"
  return "$status"
}

tried="headline warm prove measure losses proxies centroids retrieve choices training study"
all="build doctor headline warm prove tests sanitize measure losses proxies centroids retrieve choices training study"
all="$all profile suite"
# shellcheck disable=SC2086
if [ "$#" -eq 0 ]; then
  if [ -n "${DRY:-}" ]; then set -- $tried; else set -- $all; fi
fi
for name in "$@"; do
  case " $all " in
    *" $name "*) ;;
    *) echo "no such stage: $name ($all)" >&2; exit 2 ;;
  esac
done
mkdir -p build
[ -d build/wheels ] || [ -n "${WHEELS:-}" ] && export PYTHONPATH="$PWD/build/wheels${PYTHONPATH:+:$PYTHONPATH}"
if [ "$1" = build ]; then
  stage build
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

for name in "$@"; do stage "$name"; done
[ -z "$unfinished" ] || echo "no time left for all of:$unfinished"
[ -z "$failed" ] || { echo "failed:$failed"; exit 1; }
