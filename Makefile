# Everything a checkout needs; `make help` lists it. Each target sets the environment up first where that is still to do.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
ALL := $(VENV)/.all-done
QUICK := runs/quick
STANDARD := runs/standard
REFERENCE := reports/reference
# These run the same lines many times over, and take twice as long where each is counted.
UNCOUNTED := tests/projlab/training/test_optimizers.py tests/projlab/engine/test_autograd.py \
  tests/projlab/test_precision_switches.py tests/projlab/training/test_inequalities.py

.DEFAULT_GOAL := help
.PHONY: help setup validate reference test test-others test-device test-all coverage fuzz lint wheel-test bench

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## *' '{ printf "make %-12s %s\n", $$1, $$2 }'

setup: $(STAMP)  ## make .venv with the suite, dev and bench extras, from pinned versions
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/pip || $(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit( \
	  "projlab needs Python >= 3.11; $(PYTHON) is %d.%d. Name another one: make PYTHON=..." % sys.version_info[:2])'
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	@# The pinned setuptools comes first, so that the build uses it too instead of fetching the newest one.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[suite,dev,bench]'
	@touch $@

validate: setup  ## run the quick validation profile afresh into runs/quick
	$(BIN)/projlab validate --profile quick --out $(QUICK) --overwrite

reference: setup  ## run the standard profile afresh (20 minutes) and write its report into reports/reference
	$(BIN)/projlab validate --profile standard --out $(STANDARD) --overwrite
	$(BIN)/projlab report $(STANDARD) --out $(REFERENCE)

test: setup  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto

test-others: setup  ## run the tests that `make coverage` leaves out
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --ignore-glob='tests/projlab/[!c]*'
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto $(UNCOUNTED)

test-device: setup  ## run the tests marked gpu on a pretended device, which the CPU computes for
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --device pretended -m gpu tests/projlab/devices

$(ALL): $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[test-all]'
	@# Its metadata wants a numpy before 2, which others of these do not take; it works with both.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --no-deps qpth
	@touch $@

test-all: $(ALL)  ## run the tests that `make test` skips: jax, botorch, lightning, piqp, a browser (and CUDA)
	bash scripts/need-chromium
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto -m 'needs or gpu' --nothing-missing

coverage: setup  ## run the engine's tests; fail where they reach fewer of its lines and branches than pyproject.toml says
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest --numprocesses auto tests/projlab \
	  --ignore=tests/projlab/cli $(UNCOUNTED:%=--ignore=%)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered --sort=cover

fuzz: setup  ## load FILES mutated files of each format, 100,000 where not told: 17 minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.projlab.files.fuzz --files $(or $(FILES),100000) --jobs 2

bench: setup  ## measure the quick benchmarks (minutes) into .asv; gates nothing
	$(BIN)/projlab bench --quick

lint: setup  ## check style, format, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

wheel-test: setup  ## build the wheel, install it into an empty environment and use it from an empty folder
	bash scripts/wheel-test $(BIN)/python
