# `make` lists the targets. Each one installs what it needs into .venv, at the versions in constraints.txt, and
# installs again only when pyproject.toml or constraints.txt has changed.
#   make test ARGS="-k search"                      more arguments for pytest
#   make clean test PYTHON=python3.12               another Python (3.10 or newer)
#   make clean test CONSTRAINTS=.github/oldest.txt  other versions

PYTHON = python3
CONSTRAINTS = constraints.txt
ARGS =

BIN = .venv/bin
PINS = pyproject.toml $(CONSTRAINTS)
# In the environment and not as -c, so that the build backend is pinned too: older pips read the first, newer the
# second.
INSTALL = PIP_CONSTRAINT=$(CONSTRAINTS) PIP_BUILD_CONSTRAINT=$(CONSTRAINTS) PIP_DISABLE_PIP_VERSION_CHECK=1 \
	$(BIN)/python -m pip install --quiet --editable

.PHONY: help demo demo-tune test lint docs bench bench-whole-fit clean
.NOTPARALLEL:

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' Makefile

# On the CPU, so that it is the same everywhere: on a GPU, what cuBLAS needs alone may be more than this limit.
demo: .venv/.examples  ## find the largest batch size for a small model of handwritten digits
	CUDA_VISIBLE_DEVICES= $(BIN)/bstuner find --memory_limit 64MiB examples/digits.py

demo-tune: .venv/.examples  ## find the batch size and learning rate that train that model fastest
	$(BIN)/bstuner tune examples/digits.py

test: .venv/.test  ## run the tests and the examples in the docstrings
	$(BIN)/python -m pytest -n 2 --dist worksteal --doctest-modules tests bstuner $(ARGS)

lint: .venv/.lint  ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/.docs  ## build the documentation in docs/_build/html; needs Python 3.11 or newer
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs docs/_build/html
	@echo "The documentation is in docs/_build/html/index.html"

bench: .venv/.examples  ## measure the searches, training before and after tuning, and growth beside decay
	$(BIN)/python benchmarks/search.py
	$(BIN)/python benchmarks/find_vs_lightning.py
	$(BIN)/python benchmarks/tune_real.py
	$(BIN)/python benchmarks/growth_vs_decay.py --records build/growth_vs_decay.jsonl

bench-whole-fit: .venv/.examples  ## compare whole fits before and after tuning; takes about an hour
	$(BIN)/python benchmarks/whole_fit.py --records build/whole_fit.jsonl

clean:  ## remove .venv, caches and what runs leave behind
	rm -rf .venv build dist docs/_build .mypy_cache .pytest_cache .ruff_cache .hypothesis lightning_logs
	rm -f bstuner-result.json bstuner-overlay.yaml bstuner-snippet.py bstuner-schedule.json bstuner-report.html \
		bstuner-study.log
	rm -rf bstuner-artifacts
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp per extra: written once it is installed, out of date when the pins are newer.
.venv/.examples: .venv/.made $(PINS)
	$(INSTALL) '.[examples]'
	@touch $@

.venv/.test: .venv/.made $(PINS)
	$(INSTALL) '.[test]'
	@touch $@

.venv/.lint: .venv/.made $(PINS)
	$(INSTALL) '.[lint]'
	@touch $@

.venv/.docs: .venv/.made $(PINS)
	$(INSTALL) '.[docs]'
	@touch $@

.venv/.made:
	@found=$$($(PYTHON) --version 2>&1) || found="not there"; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
		echo "bstuner needs Python 3.10 or newer, but '$(PYTHON)' is $$found." >&2; \
		echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; \
		exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@
