# make demo   the whole story on a bundled data set: extract, fit, table, plot
# make test   the test suite, a process a core; tests of extras that are not installed skip
# make test-all  the same with the extras installed
# make docs   the site in site/, from docs/; any warning fails it
# make check  ruff, mypy --strict, then the test suite
# make bench  every claim of speed on this machine, in short form, one after another: half an hour on 2 cores; nothing else
#             should run beside them. Tables on the screen, figures in benchmarks/results/NAME-short.json
# make bench-full  the same in full, an hour or more on 2 cores: benchmarks/results/NAME.json
# make torture  the long trials of docs/reliability.md: 100 kills, every fault, every byte damaged, each reader fuzzed for
#             10 minutes; some hours, in turns of minutes. Run again, it goes on where it was (build/torture)
# make torture-short  their short forms, as the test suite has them
# The extras' many packages are resolved by uv, in seconds: pip tries versions one after another, for many minutes.
# Each creates .venv and installs what it needs; PYTHON names another interpreter (3.11 or newer).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Waiting threads would spin beside other processes. The benchmarks run alone, and set it where they start processes.
demo test test-all torture torture-short: export OMP_WAIT_POLICY = passive

# One script a claim.
BENCHMARKS := alpha_search paper_grid scaling tip_grid linear_probe coop extract whole_process

.DELETE_ON_ERROR:
.PHONY: demo test test-all docs lint check bench bench-full torture torture-short clean

demo: $(VENV)/.installed
	@mkdir -p demo
	$(BIN)/featcache extract --dataset shapes --backbone tiny
	$(BIN)/featcache fit --alpha-grid 0:1:0.1 --plot demo/alpha.png
	@echo
	@echo "Next, your own images, one folder a class:  $(BIN)/featcache extract --dataset folder:PATH --backbone RN50"

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadgroup

# With the extras, so that none of their tests skips.
test-all: $(VENV)/.installed-all
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadgroup

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(VENV)/.installed-dev
	@set -e; for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py --short --write; done

bench-full: $(VENV)/.installed-dev
	@set -e; for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py --write; done

torture: $(VENV)/.installed-all
	nice -n 19 $(BIN)/python -m tests.torture

torture-short: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_kills.py tests/test_damage.py tests/test_fuzz.py \
	  tests/test_interrupts.py tests/test_untrusted.py

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "featcache needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

$(VENV)/.installed-all: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -e '.[dev,test-all]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) site build dist demo .pytest_cache .mypy_cache .ruff_cache
