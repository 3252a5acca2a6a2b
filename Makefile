# redline: `make demo` talks to a real model, `make test` runs the tests. `make help` lists the rest.
#
# Everything lives in .venv. A stamp per set of packages remembers what is installed, so a second run installs nothing and
# needs no network. Which index pip asks is pip's own configuration; nothing here names one.

VENV ?= .venv
BIN := $(VENV)/bin
BASE := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
PYTEST := $(BIN)/python -m pytest

# The CPU build of torch brings no Triton; the kernel tests run on this one. A CUDA build keeps its own.
TRITON := triton==3.6.0
# The same for the compiler of the CUDA C++ kernels, which needs no GPU: a CUDA build of torch brings its own.
NVRTC := cuda-bindings==13.0.3 cuda-pathfinder==1.9.0 nvidia-cuda-nvrtc==13.0.88
MODEL := smollm2-135m
# Two cores, two runs at a time, each about as long as the other: the rooms that run beside the kernel tests and what follows them. What
# measures the machine, or is held to seconds, is a test of its own hour: QUIET. Two that take long and are held to nothing have one together.
# Two runs with two threads each on two cores would wait for each other at every barrier: with one thread the kernel tests take a tenth less.
BESIDE := $(addprefix tests/unit/,tools/test_compile_matrix.py bench chat checkpoint hardware parallel plan quant server)
STORM := tests/e2e/test_storm.py
ENDINGS := tests/e2e/test_endings.py
QUIET := $(patsubst %,tests/e2e/test_%.py,crowd http_cost overload restart slow_readers speed)
both = { $(1); } & other=$$!; $(2); own=$$?; wait $$other && exit $$own

.DEFAULT_GOAL := help
.PHONY: help demo test check soak clean venv
.DELETE_ON_ERROR:

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile

demo: $(BASE) ## fetch a small model, serve it, ask it something, show how fast that was
	@$(BIN)/python tools/demo.py $(MODEL)

test: $(DEV) model ## all tests that need no GPU
	@export OMP_NUM_THREADS=1; $(call both,TRITON_INTERPRET=1 $(PYTEST) -q tests/unit/kernels && $(PYTEST) -q tests/unit $(addprefix --ignore=,tests/unit/kernels $(BESIDE)),$(PYTEST) -q $(BESIDE) && $(PYTEST) -q tests/e2e $(addprefix --ignore=,$(STORM) $(ENDINGS) $(QUIET)))
	@$(call both,$(PYTEST) -q $(STORM),$(PYTEST) -q $(ENDINGS))
	@$(PYTEST) $(QUIET)

check: $(DEV) ## format, lint, types, floors, sizes, generated pages
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/mypy
	@$(BIN)/python tools/layers.py
	@$(BIN)/python tools/size.py
	@$(BIN)/python tools/docs.py --check

soak: $(DEV) model ## the long versions of the property, fault and fuzz tests
	@$(PYTEST) --soak --timeout=7200 -m soak tests/unit tests/e2e

clean: ## remove the virtual environment and caches; fetched models stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

venv: $(DEV) ## the virtual environment alone, with everything the tests need

.PHONY: model
model: $(BASE)
	@$(BIN)/redline pull $(MODEL) || echo "tests that need $(MODEL) will be skipped"

$(BIN)/python:
	@python=$$(PYTHON="$(PYTHON)" sh tools/python.sh) || exit 2; \
	echo "making $(VENV) with $$($$python --version)"; \
	$$python -m venv --clear $(VENV)

$(BASE): $(BIN)/python pyproject.toml constraints.txt
	@echo "installing redline and its dependencies: a few minutes the first time, most of it torch"
	@$(PIP) -e .
	@touch $@

$(DEV): $(BASE)
	@echo "installing what the tests need"
	@$(PIP) -e '.[dev]'
	@$(BIN)/python -c 'import triton' 2>/dev/null || $(PIP) --no-deps $(TRITON)
	@$(BIN)/python -c 'import cuda.bindings.nvrtc' 2>/dev/null || $(PIP) --no-deps $(NVRTC)
	@touch $@
