# Every target makes the environment first where it is missing or pyproject.toml has changed.
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed

.PHONY: setup demo check test test-all bench

setup: $(STAMP)

$(STAMP): pyproject.toml scripts/setup.sh
	scripts/setup.sh $(VENV)

demo: $(STAMP)
	$(BIN)/gloro-jax demo

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow and not more"

test-all: $(STAMP)
	$(BIN)/python -m pytest -n auto

bench: $(STAMP)
	$(BIN)/python -m experiments.bench.certify
	$(BIN)/python -m experiments.bench.training
	$(BIN)/python -m experiments.bench.data
