# Everything here runs in a private virtual environment, made on first use from constraints.txt.
# Needed on the machine: make and Python 3.11 or newer.

PYTHON ?= $(firstword $(foreach python,python3.11 python3,$(shell $(python) -c $(NEW_ENOUGH) 2>/dev/null && echo $(python))))
VENV ?= .venv-make
OUT ?= out
WORKERS ?= 2
PYTEST_ARGS ?=
SEEDS ?= 20
BENCH_ARGS ?=
# Where pip may look for torch besides its usual index. By default, on Linux, the index of CPU builds if it
# answers: the usual index has only the CUDA build for Linux, gigabytes that nothing here uses. TORCH_INDEX= : never.
TORCH_INDEX ?= $(shell [ "$$(uname -s)" = Linux ] && "$(PYTHON)" -c $(CPU_INDEX_ANSWERS) 2>/dev/null && echo $(CPU_INDEX))

CPU_INDEX := https://download.pytorch.org/whl/cpu
CPU_INDEX_ANSWERS := "import urllib.request as request; request.urlopen('$(CPU_INDEX)/torch/', timeout=5)"
NEW_ENOUGH := "import sys; sys.exit(sys.version_info < (3, 11))"

BIN := $(VENV)/bin
# Without compiling: of 30,000 files few are imported. What Python compiles then is kept, whatever the shell says.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile --constraint constraints.txt
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# One environment for all targets: two installations into it at once would collide.
.NOTPARALLEL:
.PHONY: help demo test test-seeds bench lint format clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' Makefile | expand -t 20
	@echo "Variables: PYTHON (python3.11), VENV ($(VENV)), WORKERS ($(WORKERS)), PYTEST_ARGS, SEEDS ($(SEEDS)), BENCH_ARGS, OUT ($(OUT)), TORCH_INDEX"

demo: $(VENV)/.demo ## fit 65 London schools, say what was found, draw it into out/
	$(BIN)/python examples/demo.py --out $(OUT)

# One thread per process: the tests share the cores among themselves.
test: lint ## lint, check types, run every test
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

# Hours: not part of `make test`.
test-seeds: $(VENV)/.test ## run the statistical tests with SEEDS other seeds, count failures
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python tests/over_seeds.py --seeds $(SEEDS) -- -n $(WORKERS) $(PYTEST_ARGS)

bench: $(VENV)/.bench ## speed and accuracy beside peers, on one core
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m benchmarks.run $(BENCH_ARGS)

lint: $(VENV)/.test ## lint, formatting, types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --num-workers $(WORKERS)

format: $(VENV)/.test ## format the code and sort its imports
	$(BIN)/ruff check --select I --fix
	$(BIN)/ruff format

clean: ## remove the environment, the demo's output, caches and builds
	rm -rf .venv-make out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find bayesmtl tests models notebooks benchmarks examples -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# The environment, torch, then the package with one set of extras. Each step leaves a stamp, and is done again
# when what it depends on changes.
$(VENV)/.python:
	@if ! "$(PYTHON)" -c $(NEW_ENOUGH) 2>/dev/null; then \
	  echo "bayesmtl needs Python 3.11 or newer; found: $$("$(or $(PYTHON),python3)" --version 2>&1 | head -n 1)" >&2; \
	  echo "Install it, or say where it is: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; \
	  exit 1; \
	fi
	"$(PYTHON)" -m venv $(VENV)
	@touch $@

$(VENV)/.torch: constraints.txt | $(VENV)/.python
	@echo "Installing torch into $(VENV) (first run: a few minutes)"
	$(PIP) $(addprefix --extra-index-url ,$(TORCH_INDEX)) torch
	@touch $@

$(VENV)/.demo: EXTRAS := plots,datasets
$(VENV)/.test: EXTRAS := test
$(VENV)/.bench: EXTRAS := bench
$(VENV)/.demo $(VENV)/.test $(VENV)/.bench: pyproject.toml constraints.txt bayesmtl/_version.py $(VENV)/.torch
	$(PIP) --editable ".[$(EXTRAS)]"
	@touch $@
