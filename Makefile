# Two commands for a fresh machine: `make demo` and `make test`. Both rest on `make setup`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ROWS ?=
SHARD ?=

.PHONY: setup demo test lint types capabilities clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "cryoloom needs Python 3.11 or newer: make setup PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch==2.13.0" --constraint constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev --constraint constraints.txt
	@touch $@

demo: setup
	$(BIN)/python examples/demo.py --out demo

test: setup lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --durations 15

lint: setup
	$(BIN)/ruff check src tests scripts examples benchmarks
	$(BIN)/ruff format --check src tests scripts examples benchmarks

types: setup
	$(BIN)/mypy

capabilities: setup
	$(BIN)/python scripts/capabilities.py $(if $(ROWS),--rows $(ROWS)) $(if $(SHARD),--shard $(SHARD))

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .ruff_cache .mypy_cache
