# Trilemma: what one can do here. Every target makes its own virtual environment first.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PACKAGES := $(patsubst %/__init__.py,%,$(wildcard */__init__.py))
# Where Python may not write bytecode, every process would compile the sources at each start.
BYTECODE = $(BIN)/python -m compileall -q $(PACKAGES) || :
TESTS ?= tests
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help install compile compiled demo test unit test-docker lint format bench docs fuzz soak audit-dependencies lock image compose-up compose-down clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | \
		awk -F '\t' '{ printf "  make %-18s %s\n", $$1, $$2 }'

install: $(STAMP) ## make the virtual environment in .venv, and compile there what can be
	@$(BIN)/python deploy/compile.py || :
	@$(BYTECODE)

$(STAMP): requirements.lock pyproject.toml
	@if [ ! -x $(BIN)/python ] || ! $(BIN)/python -c '' 2>/dev/null; then \
		python=$$(PYTHON="$(PYTHON)" sh deploy/find-python.sh) || exit 1; \
		echo "making $(VENV) with $$python"; \
		rm -rf $(VENV) && "$$python" -m venv $(VENV); \
	else $(BIN)/python deploy/check_python.py; fi
	@echo "installing the packages of requirements.lock (about a minute)"
	@$(BIN)/python -m pip install -qq -r requirements.lock
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation -e .
	@touch $@

compile: $(STAMP) ## compile the inner loops again and say how it went (TRILEMMA_COMPILE=0: not)
	@$(BIN)/python deploy/compile.py || :

# What runs for long runs compiled; says something only where sources, or the answer, are new.
compiled: $(STAMP)
	@$(BIN)/python deploy/compile.py --if-changed || :
	@$(BYTECODE)

demo: compiled ## run a whole cluster on this machine and trade on it
	@$(BIN)/trilemma demo

test: lint unit ## check style and types, and run all tests but those that need docker

unit: compiled ## run the tests alone (TESTS=tests/unit for a part of them)
	@$(BIN)/python deploy/run_tests.py $(TESTS)

test-docker: $(STAMP) ## test the cluster in containers (skipped, with a reason, without docker)
	@$(BIN)/python -m pytest tests/docker -rs

lint: $(STAMP) ## check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(STAMP) ## put the source in shape
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: compiled ## measure; the modules are listed by: make bench
	@if [ -z "$(NAME)" ]; then echo "choose one: make bench NAME=..."; \
		ls bench/*.py | sed -E 's#bench/(.*)\.py#  \1#' | grep -v __init__; \
	else $(BIN)/python -m bench.$(NAME) $(ARGS); fi

soak: compiled ## run a cluster for an hour with faults at random (MINUTES=10 for less), see what grows
	@$(BIN)/trilemma faults soak --minutes $(or $(MINUTES),60) $(ARGS)

# Neither of the two tools belongs to the project or its lock; each has an environment of its own.
fuzz: compiled ## fuzz every decoder with atheris (ARGS=-max_total_time=600), beside the project
	@$(BIN)/python deploy/beside.py .venv-fuzz atheris==3.0.0 --with-lock
	@.venv-fuzz/bin/python tests/fuzz/decoders.py -max_total_time=60 $(ARGS)

audit-dependencies: $(STAMP) ## look the pinned packages up among the known vulnerabilities
	@$(BIN)/python deploy/beside.py .venv-audit pip-audit==2.9.0
	@$(BIN)/python deploy/audit_dependencies.py .venv-audit requirements.lock

docs: $(STAMP) ## write docs/errors.md from the codes, docs/observability.md from the metrics
	@$(BIN)/python -c "from protocol.meanings import errors_page; print(errors_page(), end='')" > docs/errors.md
	@$(BIN)/python -m net.metrics_page > docs/observability.md

lock: $(STAMP) ## write requirements.lock from what is installed
	@$(BIN)/python deploy/write_lock.py

image: $(STAMP) ## build the container image; then "docker compose up" works too
	@sh deploy/build-image.sh
	@sh deploy/prepare-compose.sh

compose-up: image ## run the cluster in containers
	@sh deploy/compose-up.sh

compose-down: ## stop the containers and drop their state
	@sh deploy/compose-down.sh

clean: ## remove what was made here: environment, caches, wheels; testnets stay
	rm -rf $(VENV) .venv-fuzz .venv-audit build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis deploy/wheels
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
