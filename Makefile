# make demo   the main job, from real digits to a measured answer
# make test   lint, types, and every test (doctests and notebooks included)
# make arviz1 what goes to ArviZ, tested with ArviZ 1 (which needs Python 3.12) in an environment of its own
# make bench  what is claimed of speed and memory, measured
# make docs   the README's table and figures, made again by the demo, and pictures of its page by Chromium
# make site   the documentation, the course and the reference as pages, in site/; offline
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 2
# bytecode on all cores at once, and once: where Python may not write it, each process would compile torch anew
COMPILE = $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true

PYTHON_ARVIZ1 ?= python3.12
ARVIZ1 := .venv-arviz1
.PHONY: demo test lint style arviz1 bench docs site clean

demo: $(VENV)/.installed
	$(BIN)/python -m pyro_vae demo

test: style
	$(BIN)/mypy & types=$$!; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal; tests=$$?; \
	wait $$types && exit $$tests

lint: style
	$(BIN)/mypy

style: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

arviz1: $(ARVIZ1)/.tested
	OMP_NUM_THREADS=1 $(ARVIZ1)/bin/python -m pytest tests/evaluation/test_exchange.py tests/evaluation/test_evidence.py \
		tests/evaluation/test_discrete.py tests/evaluation/test_seam.py tests/mcmc/test_diagnostics.py \
		pyro_vae/arviz_import.py pyro_vae/evaluation pyro_vae/inference/mcmc/draws.py

$(ARVIZ1)/.tested: pyproject.toml
	$(PYTHON_ARVIZ1) -m venv $(ARVIZ1)
	$(ARVIZ1)/bin/python -m pip install --quiet --disable-pip-version-check 'arviz>=1' -e '.[test]'
	touch $@

bench: $(VENV)/.tested
	$(BIN)/python -m tests.benchmarks

docs: demo $(VENV)/.tested
	$(BIN)/python docs/refresh.py demo
	$(BIN)/python docs/refresh.py explore demo

site: $(VENV)/.tested
	$(BIN)/python -m sphinx -q -W --keep-going -c docs -d build/trees . site
	@echo "open site/index.html"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e .
	$(COMPILE)
	touch $@

$(VENV)/.tested: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[test]'
	$(COMPILE)
	touch $(VENV)/.installed $@

clean:
	rm -rf $(VENV) $(ARVIZ1) demo build site docs/reference *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
