# Needs Python 3.11 or later, make and a package index; nothing else. `make demo` and `make test` start from nothing.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: setup demo check test test-all bench docs

setup: $(VENV)/.demo

$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PIP) --editable '.[dev]'
	touch $@

demo: $(VENV)/.demo
	$(VENV)/bin/vade run demo

check: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

test: check
	$(VENV)/bin/pytest

test-all: check
	$(VENV)/bin/pytest -m 'not gpu and not network'

bench: $(VENV)/.dev
	$(VENV)/bin/python benchmarks/coverage.py

docs: $(VENV)/.dev
	COLUMNS=80 $(VENV)/bin/python docs/build.py
