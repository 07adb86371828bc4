# Everything here works on a fresh clone: the first target that needs it builds .venv.
# PYTHON picks the interpreter (3.11 or later); pip's own settings and environment are respected. Unset it is the
# system's, where that is new enough and can make environments: built with profile-guided optimisation, which pyenv's is
# not (docs/deployment.md), and to be read by a service that cannot see home directories. Else the one in PATH.
ifndef PYTHON
USABLE := import ensurepip, sys; sys.exit(sys.version_info < (3, 11))
PYTHON := $(shell /usr/bin/python3 -c '$(USABLE)' 2>/dev/null && echo /usr/bin/python3 || echo python3)
endif
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The translation has to be taken by every mistral-common since 1.8.6: the tests run the oldest and a middle one too.
OTHER_MISTRAL_COMMONS := 1.8.6 1.10.0
OTHERS := $(OTHER_MISTRAL_COMMONS:%=$(VENV)/mistral-common/%/.installed)

.PHONY: help setup demo test lint types unit format run qa test-clients bench bench-docs bench-memory soak clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(STAMP)

setup: $(STAMP) $(OTHERS) ## build .venv with everything that the project needs

$(VENV)/mistral-common/%/.installed: | $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(@D) mistral-common==$*
	@touch $@

demo: $(STAMP) ## proxy and simulated vLLM, one agent conversation, then stays up
	@$(BIN)/devstral-proxy demo

run: $(STAMP) ## serve, with the settings of the environment and .env
	@$(BIN)/devstral-proxy serve

lint: $(STAMP) ## ruff, check and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## mypy --strict
	$(BIN)/mypy

unit: $(STAMP) $(OTHERS) ## all tests
	$(BIN)/pytest -n 2 --dist loadfile

test: lint types unit ## lint, types and all tests

format: $(STAMP) ## ruff, mend and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

qa: $(STAMP) ## the regression suite against a proxy that it starts
	$(BIN)/python qa/run_tests.py

test-clients: $(STAMP) ## real agents and SDKs through the proxy: ONLY=codex,claude FAULT=429once; installs them into .clients
	@$(BIN)/python -m qa.clients $(if $(ONLY),--only $(ONLY)) $(if $(FAULT),--fault $(FAULT))

bench: $(STAMP) ## measure beside nginx and others: PLAN=quick|full, PEERS=all installs vllm-router and LiteLLM
	@$(BIN)/python -m qa.bench --plan $(or $(PLAN),quick) --peers $(or $(PEERS),present)

bench-docs: $(STAMP) ## docs/benchmarks.md from the last make bench, with a fresh profile
	@$(BIN)/python -m qa.bench.profile >/dev/null || true
	@$(BIN)/python -m qa.bench.workers >/dev/null || true
	@$(BIN)/python -m qa.bench.reuse >/dev/null
	@$(BIN)/python -m qa.bench.report

bench-memory: $(STAMP) ## does it grow? REQUESTS=1000000
	@$(BIN)/python -m qa.bench.memory --requests $(or $(REQUESTS),1000000)

soak: $(STAMP) ## mixed load and random faults, every answer checked: MINUTES=10 SEED=1 WORKERS=1
	@$(BIN)/python -m qa.soak --minutes $(or $(MINUTES),10) --workers $(or $(WORKERS),1) $(if $(SEED),--seed $(SEED))

clean: ## remove what setup and the tools made
	rm -rf $(VENV) .bench .clients .soak .mypy_cache .ruff_cache .pytest_cache .hypothesis
