# One command each: `make demo`, `make test`. The environment is made in .venv on first use.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo demo-loop test test-slow lint bench map clean help

help:
	@echo "make demo       install into .venv, run the demonstration"
	@echo "make demo-loop  what the loop saves against labels of plain dynamics, three seeds (half an hour)"
	@echo "make test       install into .venv, run linters, types, layers and tests"
	@echo "make test-slow  tests that take minutes"
	@echo "make lint       the checks of 'make test' without the tests"
	@echo "make bench      benchmarks"
	@echo "make map        the map in CONTRIBUTING.md, anew from the modules"
	@echo "make clean      remove .venv, caches and build products"

$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON) found; name one: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "surefield needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1); name another: make PYTHON=python3.12"; exit 1; }
	@echo "== making the environment in .venv with $$($(PYTHON) -V 2>&1)"
	@$(PYTHON) -m venv .venv
	@echo "== installing surefield and its development tools into .venv (some minutes the first time)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python examples/demo.py

demo-loop: $(STAMP)
	$(BIN)/python examples/demo_loop.py

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest -n 2 --dist worksteal

test-slow: $(STAMP)
	$(BIN)/pytest -m slow -n 2 --dist worksteal

map: $(STAMP)
	$(BIN)/python tests/house_map.py

bench: $(STAMP)
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script; done

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .import_linter_cache .benchmarks .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
