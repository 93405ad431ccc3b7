# Headrace: `make demo` to try it, `make test` to test it. Everything lands in .venv; nothing else is touched.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
export PYTHONSAFEPATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup setup-demo system-packages demo test test-sdks fuzz check format bench bench-% faults model chaos openapi reference wheel clean

help: ## Show the targets
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Headrace needs Python 3.11 or newer, $$($(PYTHON) --version) is too old: make PYTHON=python3.11 ..."; exit 78; }
	@$(PYTHON) -m venv $(VENV) || { echo "cannot make a virtual environment: on Debian, apt-get install python3-venv"; exit 78; }

# What running needs. A wheel for everything: no compiler.
$(VENV)/.runtime: requirements/runtime.txt requirements/build.txt pyproject.toml | $(BIN)/python
	@echo "Installing what Headrace needs into $(VENV) ..."
	@$(BIN)/python -m pip install -q --require-hashes --only-binary=:all: --no-deps -r requirements/build.txt -r requirements/runtime.txt
	@$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	@echo "Installing what the tests need into $(VENV) ..."
	@$(BIN)/python -m pip install -q --require-hashes --only-binary=:all: --no-deps -r requirements/dev.txt
	@touch $@

setup: $(VENV)/.dev ## Install everything into .venv (safe to repeat)

setup-demo: $(VENV)/.runtime

system-packages: setup
	@$(BIN)/python tests/system_packages.py

demo: setup-demo ## The whole system with a year of real orders; prints one URL (ARGS=--check compares every total)
	@$(BIN)/headrace demo $(ARGS)

# Tests wait for processes more than they compute: three at once keep two cores busy. A file's tests stay together.
test: setup system-packages ## All tests, on real Kafka, Postgres, Valkey and ClickHouse's engine
	@$(BIN)/python -m pytest -q -n 3 --dist loadfile $(ARGS)

.venv-sdks/.done: requirements/sdks.txt | $(BIN)/python
	@$(BIN)/python -m venv .venv-sdks
	@.venv-sdks/bin/python -m pip install -q --require-hashes --only-binary=:all: --no-deps -r requirements/sdks.txt
	@touch $@

tests/sdks/drivers/node/node_modules/.done: tests/sdks/drivers/node/package-lock.json
	@command -v npm >/dev/null || { echo "Node 20 and npm are needed: on Debian, apt-get install nodejs npm"; exit 78; }
	@cd tests/sdks/drivers/node && npm ci --silent
	@touch $@

test-sdks: setup system-packages .venv-sdks/.done tests/sdks/drivers/node/node_modules/.done ## Every SDK, unchanged, against a running system (RECORD=1 writes docs/sdks.md)
	@HEADRACE_SDKS_RECORD=$(RECORD) $(BIN)/python -m pytest -q -m slow tests/sdks $(ARGS)

fuzz: setup system-packages ## Every protocol's endpoint with 1,000,000 inputs, others each time (long; FUZZ_FIRST=n repeats)
	@FUZZ_INPUTS=$${FUZZ_INPUTS:-1000000} FUZZ_FIRST=$${FUZZ_FIRST:-$$(date +%s)000000} $(BIN)/python -m pytest -q -n 2 --dist load tests/fuzz $(ARGS)

check: setup ## Lint, types, layers, contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m tests.contract.check

format: setup ## Format the code
	@$(BIN)/ruff check -q --fix .
	@$(BIN)/ruff format .

bench: setup ## All benchmarks; each prints its table and writes JSON to bench/results
	@$(BIN)/python -m bench $(ARGS)

bench-%: setup
	@$(BIN)/python -m bench $* $(ARGS)

faults: setup system-packages ## kill -9 of every process with 200,000 events (long)
	@$(BIN)/python -m pytest -q -m slow tests/faults $(ARGS)

model: setup ## The frame protocol's model with 2,000 seeds and every guard removed once (long)
	@MODEL_SEEDS=2000 $(BIN)/python -m pytest -q tests/model $(ARGS)

chaos: setup system-packages ## Stream workers killed, stopped and joined at random, 30 seeds (long)
	@STREAMS_CHAOS_SEEDS=30 $(BIN)/python -m pytest -q tests/integration/test_streams_chaos.py $(ARGS)

openapi: setup ## Write api/openapi.json from the code
	@$(BIN)/python -m api.openapi > api/openapi.json

reference: setup ## Write docs/reference from the code
	@$(BIN)/python -m tests.contract.reference

wheel: setup ## Build the wheel into dist/
	@$(BIN)/python -m build --no-isolation --wheel

clean: ## Remove what make made
	@rm -rf $(VENV) .venv-bench .venv-sdks tests/sdks/drivers/node/node_modules dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
