# Each target sets up all it needs in .venv; nothing has to be installed beforehand but Python >= 3.11.
#   make demo          the main job on real checkpoints, on CPU, in minutes   (RL=1 goes on with GRPO)
#   make test          everything CI checks
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
INPUTS := pyproject.toml constraints.txt
RL     ?= 0
WORKERS ?= 2

export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_OFFLINE ?= 1
export DO_NOT_TRACK ?= 1

.PHONY: demo test check lint types pytest examples bench clean help

help:
	@sed -n 's/^#   //p' Makefile

$(BIN)/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python $(INPUTS)
	@echo "Installing mlflow-rlrisk with torch and transformers into $(VENV) (a few minutes, once)"
	$(PIP) -e '.[hf]'
	@touch $@

$(VENV)/.rl: $(VENV)/.demo
	@echo "Installing TRL for the RL part of the demo (once)"
	$(PIP) -e '.[hf,trl]'
	@touch $@

$(VENV)/.dev: $(BIN)/python $(INPUTS)
	@echo "Installing mlflow-rlrisk with everything the tests need into $(VENV) (a few minutes, once)"
	$(PIP) -e '.[hf,trl,math,evaluate,dev]'
	@touch $@ $(VENV)/.demo $(VENV)/.rl

demo: $(if $(filter 1,$(RL)),$(VENV)/.rl,$(VENV)/.demo)
	$(BIN)/rlrisk demo $(if $(filter 1,$(RL)),--rl)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

types: $(VENV)/.dev
	$(BIN)/mypy

check: lint types

pytest: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

test: check pytest

bench: $(VENV)/.dev
	$(BIN)/python -m tests.benchmarks.passk
	$(BIN)/python -m tests.benchmarks.bootstrap
	$(BIN)/python -m tests.benchmarks.generate
	$(BIN)/python -m tests.benchmarks.assess

clean:
	rm -rf $(VENV) demo-out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
