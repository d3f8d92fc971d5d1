# Two commands do all the set-up by themselves: make demo, make test.  `make help` lists all.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test lint types imports pytest cluster-test browser-test reliability benchmarks clean

demo: $(READY)  ## the main job on drawn data, in five minutes
	$(BIN)/piggyback demo

test: lint types imports pytest  ## all checks that need neither Slurm nor a browser

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Installs again when the project's requirements change.
$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "piggyback-bench needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(READY)

lint: $(READY)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## mypy, strict
	$(BIN)/mypy

imports: $(READY)  ## import-linter: who may import whom
	$(BIN)/lint-imports

# As many processes as processors, each of one thread: the networks of the tests are too small for more.
pytest: $(READY)  ## the tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal

# Brings up a real two-node Slurm below a temporary folder; Debian's packages slurm-wlm slurmdbd munge mariadb-server.
cluster-test: $(READY)  ## tests on a real Slurm that they bring up
	$(BIN)/pytest -m cluster tests/slurm/cluster

# Looks at the leaderboard's page in a real browser; Debian's package chromium.
browser-test: $(READY)  ## tests of the leaderboard's page in Chromium
	$(BIN)/pytest -m browser tests/leaderboard/browser

# The numbers of docs/reliability.md: every fault case five times on that Slurm; some half an hour.  Before it, five
# thousand drawn sequences of the library's calls, in three minutes; they print their seed and what was drawn.
reliability: $(READY)  ## the numbers of docs/reliability.md, in half an hour
	OMP_NUM_THREADS=1 LAWS_SEQUENCES=5000 $(BIN)/pytest -q -s tests/piggyback/test_adversarial_laws.py
	$(BIN)/python tests/slurm/cluster/reliability.py --out runs/reliability.md

# The numbers of docs/performance.md; some ten minutes on a quiet machine.
benchmarks: $(READY)  ## the numbers of docs/performance.md, in ten minutes
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/methods.py
	$(BIN)/python benchmarks/input.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torchmetrics
	$(BIN)/python benchmarks/miou.py
	$(BIN)/python benchmarks/help.py
	$(BIN)/python benchmarks/page.py
	$(BIN)/python benchmarks/coverage.py

clean:  ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
