# Every target installs what it needs. Python 3.11 (or newer) and make are enough.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps

.PHONY: help demo dev test test-slow pretrained bench study fuzz lint format docs lock clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is too old: Python 3.11 or newer is needed (make PYTHON=…)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/runtime.stamp: requirements/runtime.txt pyproject.toml | $(BIN)/python
	@echo "Installing (about two minutes, once) …"
	@$(INSTALL) --require-hashes -r requirements/runtime.txt
	@$(INSTALL) --no-build-isolation --editable .
	@touch $@

$(VENV)/dev.stamp: requirements/dev.txt $(VENV)/runtime.stamp
	@$(INSTALL) --require-hashes -r requirements/dev.txt
	@touch $@

demo: $(VENV)/runtime.stamp ## install, and run the main job on a simulated session
	@$(BIN)/tem-pipeline demo

dev: $(VENV)/runtime.stamp ## install, and start Dagster's pages and daemon and MLflow's pages (DEMO=1: those of the demo)
	@$(BIN)/tem-pipeline dev $(if $(DEMO),--demo)

test: $(VENV)/dev.stamp ## install, and run the tests
	@$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile -m "not slow"

test-slow: $(VENV)/dev.stamp ## run all tests, the long ones too
	@$(BIN)/python -m pytest -q --timeout 3600

pretrained: $(VENV)/runtime.stamp ## train the model in models/pretrained/ again (about two hours; resumes if interrupted)
	@$(BIN)/python -m tem_pipeline.training.pretraining models/pretrained models/pretraining

bench: $(VENV)/dev.stamp ## measure, and write docs/benchmarks/ (BENCH=NAME: only this one)
	@$(BIN)/python -m benchmarks $(BENCH)

study: $(VENV)/dev.stamp ## compare losses, networks and protocols, measure the pretrained model (STUDY=PART: only this part)
	@$(BIN)/python -m studies $(STUDY)

fuzz: $(VENV)/dev.stamp ## read damaged and hostile files for ten minutes (SECONDS=…), and write .fuzzing/report.md
	@$(BIN)/python -m fuzzing $(or $(SECONDS),600)

lint: $(VENV)/dev.stamp ## ruff and pyright
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright

format: $(VENV)/dev.stamp ## format and fix with ruff
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: $(VENV)/runtime.stamp ## write the parts of docs/ that come from the code
	@$(BIN)/python -m tem_pipeline.data_dictionary > docs/data-dictionary.md
	@$(BIN)/python -m docs.architecture
	@$(BIN)/python -m docs.states

lock: $(BIN)/python ## resolve the requirements again (needs uv)
	uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra build pyproject.toml -o requirements/runtime.txt
	uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra build --extra dev pyproject.toml -o requirements/dev.txt

clean: ## remove the environment and the caches, but no data and no models
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist
