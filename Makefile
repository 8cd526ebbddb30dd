# What a developer types. Needs python3 (3.11 or newer), make and, for the system packages, Debian's apt.
#
#   make run     serve examples/quickstart.yaml on 127.0.0.1:5000
#   make test    install what the tests need and run them all
#   make check   format, lint, types, then make test
#   make crash   kill and cut the power three hundred times, and look for what is lost
#   make bench   measure against Debian's docker-registry; see docs/performance.md
#   make lock    write constraints.txt anew from what is installed

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
POLICY ?= examples/quickstart.yaml

# Through the environment, and so for the isolated build of the package too: `-c` alone does not
# reach what builds it. Newer versions of pip have a variable of its own for that.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_BUILD_CONSTRAINT := $(CURDIR)/constraints.txt

# program=package: what tests/e2e and bench/ start as real processes.
E2E_PACKAGES := dockerd=docker.io docker=docker-cli docker-registry=docker-registry \
	skopeo=skopeo busybox=busybox-static runc=runc
BENCH_PACKAGES := docker-registry=docker-registry wrk=wrk

.DEFAULT_GOAL := help
.PHONY: help run test check format-check format lint types imports packages crash bench lock clean

help:
	@sed -n 's/^#   //p' Makefile

# Stamps: an install is repeated only when the pins or the dependencies change.
RUNTIME := $(VENV)/.installed
DEVELOP := $(VENV)/.installed-dev

$(BIN)/python:
	@scripts/make-venv $(PYTHON) $(VENV)

$(RUNTIME): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e .
	@touch $@

$(DEVELOP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@ $(RUNTIME)

run: $(RUNTIME)
	@printf '\nIn another terminal, type:\n\n'
	@printf '  docker pull 127.0.0.1:5000/library/busybox\n'
	@printf '  docker tag 127.0.0.1:5000/library/busybox 127.0.0.1:5000/team/busybox\n'
	@printf '  docker push 127.0.0.1:5000/team/busybox\n\n'
	@exec $(BIN)/routerd serve --config $(POLICY)

packages:
	@scripts/need-packages $(E2E_PACKAGES)

test: $(DEVELOP) packages
	$(BIN)/python -m pytest -q --durations=10 $(PYTEST_ARGS)

check: format-check lint types imports test

format-check: $(DEVELOP)
	$(BIN)/ruff format --check .

format: $(DEVELOP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(DEVELOP)
	$(BIN)/ruff check .

types: $(DEVELOP)
	$(BIN)/mypy

imports: $(DEVELOP)
	$(BIN)/python -m pytest -q tests/test_imports.py

crash: $(DEVELOP)
	CRASH_ROUNDS=300 $(BIN)/python -m pytest -q tests/content/test_crash.py

bench: $(DEVELOP)
	@scripts/need-packages $(BENCH_PACKAGES)
	$(BIN)/python bench/routing.py
	PYTHONPATH=tests/support $(BIN)/python bench/compare.py
	PYTHONPATH=tests/support $(BIN)/python bench/crowd.py
	PYTHONPATH=tests/support $(BIN)/python bench/sweep.py

lock: $(DEVELOP)
	$(BIN)/python -m pip freeze --exclude-editable | grep -E '^[A-Za-z0-9._-]+==' \
		| LC_ALL=C sort -f > constraints.txt

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
