# One command sets up, one shows it working, one tests. Type `make` for the list.

SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The first Python that fits; 3.11 first, since the pinned versions were chosen with it.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null \
	&& echo $$p && break; done)

# Two busy processes on two cores are ten times slower when torch's threads spin while they wait.
export OMP_WAIT_POLICY := passive
# Nothing of ours phones home.
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export HF_HUB_DISABLE_TELEMETRY := 1
# uv trusts what the machine trusts, as pip does: behind a proxy its own list of certificates is not enough.
export UV_SYSTEM_CERTS := true
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-e2e test-orders fuzz crash check lint format emoji64 clean

help:  ## Print this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

setup: $(STAMP)  ## Make the virtual environment (the other targets do it when needed)

demo: $(STAMP)  ## The whole pipeline on the bundled family: hub, graph, training, images, report (10 min)
	$(BIN)/diffgraph demo --out demo

# Offline, in a random order (told at the end; `make test SEED=…` runs it again), on two cores, a thread
# each. A file of tests is one worker's, so that what it sets up is set up once.
PYTEST = HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --no-loadscope-reorder \
	$(if $(SEED),--randomly-seed=$(SEED))

test: $(STAMP)  ## Run all tests that are quick, offline, on the CPU (5 min)
	$(PYTEST) --dist loadfile --ignore=tests/e2e

test-e2e: $(STAMP)  ## Run the tests with real servers, crashes and whole pipelines (10 min)
	$(PYTEST) --dist loadscope tests/e2e

test-orders: $(STAMP)  ## Run `make test` in ten orders, two beside busy loops (ORDERS='--orders 3 --busy 1')
	$(BIN)/python -m tests.orders $(ORDERS)

fuzz: $(STAMP)  ## Try hostile inputs for an hour; findings go to out/fuzz (FUZZ='--minutes 5 --seed 7')
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m tests.hostile.fuzz $(FUZZ)

crash: $(STAMP)  ## Kill every verb 200 times in all, fill and break its disk (CRASH='--kills 20 --verbs build')
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m tests.crash $(CRASH)

check: lint test test-e2e  ## All that CI runs: format, lint, types, import contracts, all tests

lint: $(STAMP)  ## Check format, style, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(STAMP)  ## Rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

emoji64: $(STAMP)  ## Rebuild the bundled family from its art (needs one GPU for about an hour)
	@test -x $(BIN)/uv && $(BIN)/uv pip install --python $(BIN)/python --compile-bytecode \
		-c constraints.txt -e '.[dev,recipe]' || $(BIN)/pip install -c constraints.txt -e '.[dev,recipe]'
	$(BIN)/python -m recipes.emoji64.flow --out out/emoji64 --device cuda --gpus 0

clean:  ## Delete what was made: the environment, caches, the demo
	rm -rf $(VENV) demo out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip installs torch, so that a CPU build that is offered to it is taken; uv keeps it and is fast at the rest.
# Bytecode is compiled here: an uncompiled environment costs seconds at every start.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed and none was found" >&2; exit 1; }
	@echo "Setting up $(VENV) with $(PYTHON): a minute or two"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q -c constraints.txt uv 'torch>=2.9,<2.14'
	@$(BIN)/uv pip install -q --python $(BIN)/python --compile-bytecode -c constraints.txt -e '.[dev]' \
		|| $(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $@
