# Two commands do everything on a fresh machine with Python 3.11+ and make: `make up` and `make test`.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: up test lint unit only bench format release clean

up: $(VENV)/.installed
	@$(BIN)/trunkline up $(ARGS)

test: lint unit

lint: $(VENV)/.dev
	$(BIN)/ruff format --check src tests bench tools docs
	$(BIN)/ruff check src tests bench tools docs
	$(BIN)/mypy
	$(BIN)/lint-imports

# The conformance cases measure time and go last, alone; all others share the processors.
unit: $(VENV)/.dev
	$(BIN)/pytest --numprocesses 2 --ignore tests/conformance $(ARGS)
	$(BIN)/pytest tests/conformance

# Some tests: make only ARGS="tests/server -k recover"
only: $(VENV)/.dev
	$(BIN)/pytest $(ARGS)

bench: $(VENV)/.dev
	$(BIN)/pip install --quiet --disable-pip-version-check uvicorn
	$(BIN)/python -m bench $(ARGS)

format: $(VENV)/.dev
	$(BIN)/ruff format src tests bench tools docs
	$(BIN)/ruff check --fix src tests bench tools docs

# A wheel, an sdist, a commit and a tag: make release VERSION=0.2.0 (see RELEASE.md)
release: $(VENV)/.dev
	$(BIN)/python tools/release.py $(VERSION)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Trunkline needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: pyproject.toml | $(VENV)/.python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[reload,traefik,load,monitor]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,reload,docker,traefik,load,monitor]'
	@touch $@ $(VENV)/.installed
