# make demo and make test do all set-up on a fresh machine, then run; a second call only runs.
#   make test TORCH="torch==2.11.0" TRITON="triton==3.6.0" PYTHON=python3.12 ARGS="-k registry"

PYTHON ?= python3
TORCH ?= torch==2.13.0
# Which registers spill depends on Triton's version: the tests of the kernels hold for this one.
TRITON ?= triton==3.8.0
ARGS ?=
EXTRAS := train,images,glyphs,backbones,export,tensorboard,examples,dev,triton
# Processes that share the tests, each with one thread (others, where a test asks for them, wait without
# spinning); 0: none but this.
JOBS ?= auto

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
NATIVE := $(shell find csrc -type f)
# One stamp for each choice of versions: another choice sets up again.
CHOICE := $(shell printf '%s' '$(TORCH) $(TRITON)' | cksum | cut -d' ' -f1)
PACKAGES := .venv/.packages-$(CHOICE)
READY := .venv/.ready-$(CHOICE)

.PHONY: demo test check lint format bench native doctor clean
.DELETE_ON_ERROR:

demo: $(READY)
	@$(BIN)/fastdml demo $(ARGS)

test: $(READY)
	@OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: lint test

lint: $(READY)
	@echo "ruff, mypy, clang-format"
	@$(BIN)/ruff format --check --quiet . || { $(BIN)/ruff format --diff --quiet . | head -100; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/clang-format --dry-run -Werror $(filter %.cpp %.h %.cu %.cuh,$(NATIVE))

format: $(READY)
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/clang-format -i $(filter %.cpp %.h %.cu %.cuh,$(NATIVE))

bench: $(READY)
	@$(BIN)/python -m pytest bench --benchmark-only $(ARGS)

native: $(READY)

doctor: $(READY)
	@$(BIN)/fastdml doctor

clean:
	rm -rf .venv build dist fastdml.egg-info fastdml/lib fastdml/_C.* runs
	rm -rf .mypy_cache .pytest_cache .ruff_cache .benchmarks .hypothesis

# Torch comes first and by its own pin: as a mere dependency it could be any version, of any size.
$(PACKAGES): pyproject.toml setup.py
	@test -x $(BIN)/python || { echo "creating .venv with $(PYTHON)"; $(PYTHON) -m venv .venv; }
	@echo "installing $(TORCH)"
	@$(PIP) install "$(TORCH)"
	@echo "installing fastdml with its extras, building the native extension"
	@$(PIP) install -e '.[$(EXTRAS)]' "$(TORCH)" "$(TRITON)"
	@rm -f .venv/.packages-* .venv/.ready-*
	@touch $@

# Says what was built; after a change to the C++ sources it compiles what changed.
$(READY): $(PACKAGES) $(NATIVE)
	@$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@
