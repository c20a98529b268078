# Everything a developer or CI does. Needs Python 3.11 or newer, bash and a package index; all else is made here:
# .tools (uv), .venv (Berth and its tools), .engines (vLLM), models (the tiny model), .berth (what a run leaves).

SHELL := /bin/bash
BIN := .venv/bin
PYTEST := $(BIN)/pytest -q
UNIT := -m "not slow and not engine"
# Two workers. A file stays on one of them, since its tests may share a process that is slow to start; and the files
# keep their order, since the long ones in tests/e2e would else come last.
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder
SCRIPTS := $(wildcard *.sh etc/*/*.sh) .ci/run

export SETUP_STARTED := $(shell date +%s)
unexport MAKEFLAGS MFLAGS MAKEOVERRIDES
.NOTPARALLEL:
.DEFAULT_GOAL := help

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

##### to use it

.PHONY: run
run: setup ## start the appliance: make run BERTH_MODELS=... BERTH_PORT=... (Ctrl-C ends it)
	@exec $(BIN)/python -m etc.setup.run

.PHONY: image
image: ## build the container image berth:dev
	@docker info >/dev/null 2>&1 || { echo "make image needs Docker, and leave to use it: 'docker info' fails." \
	  "Without Docker: make run" >&2; exit 1; }
	docker build --tag berth:dev .

##### to set it up (the other targets do it themselves)

.PHONY: setup
setup: ## make .venv
	@etc/setup/project.sh

.PHONY: engine-vllm
engine-vllm: setup ## install vLLM into .engines/vllm: for the GPU, else for the CPU
	@$(BIN)/python -m etc.setup.engines

.PHONY: tiny-model
tiny-model: models/tiny/script.json ## make the tiny model in models/tiny

models/tiny/script.json: $(wildcard etc/tiny_model/*) | setup
	@$(BIN)/python -m etc.tiny_model.make_tiny_model models/tiny

##### to work on it

.PHONY: unit
unit: setup ## the tests without an engine: the inner loop
	$(PYTEST) $(WORKERS) $(UNIT)

.PHONY: test
test: setup engine-vllm tiny-model ## every test that this machine can run, the real engine included
	$(PYTEST) $(WORKERS) --durations 10

.PHONY: e2e
e2e: setup engine-vllm tiny-model ## the tests of whole appliances only
	$(PYTEST) $(WORKERS) --durations 10 tests/e2e

.PHONY: check
check: setup format-check lint types imports cover ## the gate: format, lint, types, imports, unit tests, coverage

.PHONY: format
format: setup ## format the code, and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: format-check
format-check: setup
	$(BIN)/ruff format --check .

.PHONY: lint
lint: setup ## ruff, shellcheck, hadolint
	$(BIN)/ruff check .
	$(BIN)/shellcheck $(SCRIPTS)
	$(BIN)/hadolint Dockerfile

.PHONY: types
types: setup ## mypy, strict
	$(BIN)/mypy

.PHONY: imports
imports: setup ## which folder may import which
	$(BIN)/lint-imports

.PHONY: cover
cover: setup ## every test but those with a real engine, with branch coverage
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest -q $(WORKERS) -m "not engine"
	$(BIN)/coverage combine --quiet
	rm -f .coverage.* # what killed processes left half-written
	$(BIN)/coverage report

.PHONY: bench
bench: setup ## what Berth costs per request and per token, beside the engine alone
	$(BIN)/python -m tests.bench.overhead

.PHONY: clean
clean: ## remove what runs and tests leave
	rm -rf .berth .coverage .coverage.* htmlcov .mypy_cache .ruff_cache .import_linter_cache .hypothesis models/tiny
	find berth tests etc -name __pycache__ -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## remove the environments too
	rm -rf .venv .tools .engines
