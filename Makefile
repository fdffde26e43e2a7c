# Needs Python 3.11 or later, make and a package index; nothing else. `make demo` and `make test` start from nothing.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: setup demo check test test-all bench docs

setup: $(VENV)/.demo

$(VENV)/.demo: pyproject.toml constraints.txt
	"$(PYTHON)" -m venv $(VENV)
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

# What docs/performance.md, docs/scaling.md and docs/statistics.md show, in hours, with the two runs whose adapter and
# times are measured. `make bench QUICK=1` tries every script in minutes. On a CUDA machine: benchmarks/gpu.sh.
MEASURE = $(VENV)/bin/python -m benchmarks

ifdef QUICK
bench: $(VENV)/.dev
	$(MEASURE).coverage --quick
	$(MEASURE).train_speed --quick
	$(MEASURE).profile_step --quick
	$(MEASURE).generate_speed --quick
	$(MEASURE).plan_accuracy --quick
	$(MEASURE).shared_base --quick
	$(MEASURE).scaling --quick
else
bench: $(VENV)/.dev
	$(VENV)/bin/vade run demo --out runs/bench/demo
	$(VENV)/bin/vade run cpu --set budget.minutes=28 --set generate.test_pairs=96 --out runs/bench/cpu
	$(MEASURE).coverage
	$(MEASURE).train_speed
	$(MEASURE).train_speed --model tinyllama
	$(MEASURE).profile_step
	$(MEASURE).profile_step --model tinyllama
	$(MEASURE).generate_speed --adapter runs/bench/cpu/adapter
	$(MEASURE).plan_accuracy --run runs/bench/demo --run runs/bench/cpu
	$(MEASURE).shared_base
	$(MEASURE).scaling
endif

docs: $(VENV)/.dev
	COLUMNS=80 $(VENV)/bin/python docs/build.py
