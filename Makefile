# make setup    an environment in .venv with everything, versions pinned by constraints.txt
# make compare  the main job on the embedded testbed
# make test     the tests (no server, GPU, hub or key needed)
# make test-all the tests with real servers and kills
# make lint     ruff and mypy

VENV ?= .venv
PYTHON ?= python3
JOBS ?= $(shell nproc 2>/dev/null || echo 1)
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1

.PHONY: setup compare test test-all lint

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

compare: setup
	$(BIN)/sails-eval compare --methods sails,lora,full --pair testbed --jobs $(JOBS)

test: setup
	$(BIN)/python -m pytest

test-all: setup
	$(BIN)/python -m pytest -m server

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
