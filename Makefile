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

# Hours; `make bench QUICK=1` takes minutes. On a CUDA machine: benchmarks/gpu.sh.
bench: $(VENV)/.dev
	$(VENV)/bin/python -m benchmarks.coverage $(if $(QUICK),--quick)
	$(VENV)/bin/python -m benchmarks.train_speed $(if $(QUICK),--quick)
	$(if $(QUICK),,$(VENV)/bin/python -m benchmarks.train_speed --model tinyllama)
	$(VENV)/bin/python -m benchmarks.generate_speed $(if $(QUICK),--quick)
	$(VENV)/bin/python -m benchmarks.shared_base $(if $(QUICK),--quick)
	$(VENV)/bin/python -m benchmarks.plan_accuracy $(if $(QUICK),--quick)

docs: $(VENV)/.dev
	COLUMNS=80 $(VENV)/bin/python docs/build.py
