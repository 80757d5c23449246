# Two commands do everything: `make demo` and `make test`. Both set up .venv first and may be run again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One OpenMP thread a process: two processes with two threads each on two cores run many times slower than with one.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint
.DEFAULT_GOAL := demo

$(VENV)/.package: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(VENV)/.package $@

demo: $(VENV)/.package
	$(BIN)/python tools/make_motion.py --task direction --output motion/direction --train 1600
	$(BIN)/python tools/make_motion.py --task lattice --output motion/lattice
	$(BIN)/python tools/ablate.py --config configs/ablations/quickstart.yaml

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
