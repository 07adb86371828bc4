# Everything here works on a fresh clone: the first target that needs it builds .venv.
# PYTHON picks the interpreter (3.11 or later); pip's own settings and environment are respected.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The translation has to be taken by every mistral-common since 1.8.6: the tests run the oldest and a middle one too.
OTHER_MISTRAL_COMMONS := 1.8.6 1.10.0
OTHERS := $(OTHER_MISTRAL_COMMONS:%=$(VENV)/mistral-common/%/.installed)

.PHONY: help setup demo test lint types unit format run qa clean

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
	$(BIN)/pytest

test: lint types unit ## lint, types and all tests

format: $(STAMP) ## ruff, mend and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

qa: $(STAMP) ## the regression suite against a proxy that it starts
	$(BIN)/python qa/run_tests.py

clean: ## remove what setup and the tools made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
