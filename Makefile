# Everything here makes its own virtual environment; nothing has to be installed first but Python 3.10+.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
TESTS  ?= tests
COMPILED = $(BIN)/python -c 'import fastq._speedups as s, sys; sys.exit(s.body != "c")'
RABBITMQ = $(PYTHON) -c 'import socket; socket.create_connection(("127.0.0.1", 5672), 1)'
RABBITMQ_C = ls /usr/include/amqp_framing.h /usr/include/rabbitmq-c/framing.h 2>/dev/null | grep -q .

.DEFAULT_GOAL := help

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/installed: pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

setup: $(VENV)/installed  ## Make .venv with fastq and what its development needs

demo: setup  ## Run a worker on SQLite over the standard library's own files, with a progress bar
	$(BIN)/python examples/standard_library.py

lint: setup  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint  ## Check style and types, and run the tests, with the Python bodies and the compiled ones at once
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target test-python test-compiled

# What fails runs once more, after all the rest and with its whole first failure printed: on a loaded machine a process
# may be slower than any patience. A test that needs its second run is a defect, and is to be mended.
define run-tests
$(BIN)/python -m pytest -o cache_dir=.pytest_cache/$(1) $(TESTS) || { test $$? -eq 1 && echo "Once more, what failed:" && \
	$(BIN)/python -m pytest -o cache_dir=.pytest_cache/$(1) --last-failed --last-failed-no-failures none $(TESTS); }
endef

test-python: setup
	export FASTQ_SPEEDUPS=0; $(call run-tests,python)

test-compiled: setup
	@if $(COMPILED); then export FASTQ_SPEEDUPS=1; $(call run-tests,compiled); \
	else echo "The compiled bodies are not built here: the tests ran with the Python bodies alone."; fi

services:  ## Start the servers that tests use, installing Debian's packages of what is missing
	@command -v redis-server >/dev/null && command -v rabbitmqctl >/dev/null && $(RABBITMQ_C) || { \
		apt-get update -q && apt-get install -qy redis-server rabbitmq-server librabbitmq-dev; }
	@redis-cli -h 127.0.0.1 ping >/dev/null 2>&1 || \
		redis-server --daemonize yes --bind 127.0.0.1 --port 6379 --save '' --appendonly no
	@$(RABBITMQ) 2>/dev/null || { \
		RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 ERL_EPMD_ADDRESS=127.0.0.1 \
		RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}' \
			rabbitmq-server -detached && rabbitmqctl --quiet await_startup; }
	@redis-cli -h 127.0.0.1 ping >/dev/null
	@$(RABBITMQ)

soak: setup  ## Run the long tests: minutes of load and random kills
	$(BIN)/python -m pytest $(TESTS) -m soak --timeout 1800

bench: setup  ## Measure everything, beside its peers, and write docs/benchmarks.rst: takes an hour or two
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python -m benchmarks --docs docs/benchmarks.rst

bench-quick: setup  ## The same with small sizes and one run each, for a look: some ten minutes
	$(BIN)/python -m benchmarks --quick --runs 1

include Makefile.speedups

clean:  ## Remove what the other targets made
	rm -rf $(VENV) build dist *.egg-info fastq.db* .mypy_cache .ruff_cache .hypothesis

.PHONY: help setup demo lint test test-python test-compiled services soak bench bench-quick clean
