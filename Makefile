# Two commands do everything: `make demo` and `make test`. All targets set up .venv first and may be run again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One OpenMP thread a process: two processes with two threads each on two cores run many times slower than with one.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test bench lint browser
.DEFAULT_GOAL := demo

# A stamp says that the environment was made whole; half of one (no ensurepip, Ctrl-C) is made anew.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(None if sys.version_info >= (3, 10) else \
		"Python 3.10 or newer is needed, $(PYTHON) is " + v + "; name another one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

$(VENV)/.package: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(VENV)/.package $@

demo: $(VENV)/.package
	$(BIN)/python tools/make_motion.py --task direction --output motion/direction --train 1600
	$(BIN)/python tools/make_motion.py --task lattice --output motion/lattice
	$(BIN)/python tools/ablate.py --config configs/ablations/quickstart.yaml

# The report is tested in a real browser, the system's; where it cannot be installed those tests are skipped, and say so.
browser:
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null || \
		{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -qq -y chromium; } || \
		echo "no Chromium and no way to install it: tests of the page in a browser will be skipped"

test: $(VENV)/.dev browser
	$(BIN)/python -m pytest -n auto --dist worksteal

# On all cores, for one process runs at a time; BENCH takes tables and options: make bench BENCH="model --quick true"
bench: $(VENV)/.dev
	env -u OMP_NUM_THREADS $(BIN)/python tools/benchmark.py $(BENCH)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
