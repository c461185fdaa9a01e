# `make demo` and `make test` install what they need into .venv, then run. They need Python 3.11 or
# newer with pip, and make; another interpreter can be named: make demo PYTHON=python3.12
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
ifeq ($(PYTHON),)
$(error rl-optim needs Python 3.11 or newer, and none was found)
endif

VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
SOURCES := $(shell find optim agents meta experiments -name '*.py') rl_optim.py $(wildcard optim/learned/weights/*) pyproject.toml README.md
# pip reads the first for what it installs, and the second for what it builds the wheel with.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_BUILD_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test docs lint wheel wheel-constraints wheel-newest clean

demo: $(VENV)/installed
	$(BIN)/rl-optim compare --preset quickstart --out runs/quickstart --overwrite

# From an empty folder, so that the installed wheel is what is tested. PYTEST_ARGS=--slow for all.
test: $(VENV)/installed-dev
	cd "$$(mktemp -d)" && RL_OPTIM_TEST_INSTALLED=1 $(BIN)/python -P -m pytest \
		-c $(CURDIR)/pyproject.toml --rootdir $(CURDIR) -n 2 --dist worksteal -q \
		$(PYTEST_ARGS) $(CURDIR)/tests

# Needs no network once it is installed. A link that leads nowhere is an error, as any warning is.
docs: $(VENV)/installed-docs
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: $(VENV)/installed-dev
	rm -rf dist
	$(BIN)/python -m build --no-isolation --wheel

# The wheel in an empty environment, in the versions of constraints.txt or in the newest ones.
wheel-constraints: wheel
wheel-newest: wheel
wheel-constraints wheel-newest:
	.ci/wheel $(@:wheel-%=%) dist/*.whl $(PYTHON)

clean:
	rm -rf $(VENV) dist runs docs/_build

$(VENV)/requirements: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet '.[all]'
	touch $@

$(VENV)/requirements-dev: $(VENV)/requirements
	$(BIN)/python -m pip install --quiet '.[all,dev]'
	touch $@

$(VENV)/installed: $(VENV)/requirements $(SOURCES)
	$(BIN)/python -m pip install --quiet --no-deps --force-reinstall .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed $(VENV)/requirements-dev
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet '.[docs]'
	touch $@
