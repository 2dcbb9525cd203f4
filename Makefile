# `make run` serves, `make test` tests; both set up what they need. `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
# Two processes; the tests of one file stay together, because they share a gateway.
PARALLEL := -n 2 --dist loadfile
PIP_INSTALL := $(BIN)/python -m one_api.install
# The locks are made on the oldest Python that the project runs on: newer ones need a part of its packages.
LOCK_PYTHON ?= /usr/bin/python3
LOCK := .lock-venv
PIP_COMPILE = $(LOCK)/bin/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe --no-emit-index-url \
	--no-emit-find-links

.PHONY: help install run test test-long check check-long format lint types bench bench-local crowd faults soak reloads simulate lock clean

help:
	@echo "make run     set up, fetch the small local model, and serve on http://127.0.0.1:8000"
	@echo "make install only make the environment in .venv"
	@echo "make test    set up, and run every test"
	@echo "make check   format, lint and types checked, then every test"
	@echo "make check-long  the same, with many more examples for each property test"
	@echo "make format  format the code"
	@echo "make bench   measure speed against the upstream asked directly (LITELLM=1: and against LiteLLM)"
	@echo "make bench-local  tokens per second of the local model against its engine asked directly"
	@echo "make crowd   500 slow clients of each kind: do others notice?"
	@echo "make faults  what failing upstreams cost the clients of a group"
	@echo "make soak    20,000 requests on new connections: does anything leak?"
	@echo "make reloads 100 reloads and 60 killed workers under 100 streams: is anything cut?"
	@echo "make simulate  who is chosen in a group when something befalls it, as a table and simulation.png"
	@echo "make lock    pin the dependencies of pyproject.toml anew, with hashes"

install: $(INSTALLED)

run: $(INSTALLED)
	@$(BIN)/python -m one_api.quickstart
	@exec $(BIN)/gunicorn wsgi:app

test: $(INSTALLED_DEV)
	$(BIN)/python -m pytest $(PARALLEL)

test-long: $(INSTALLED_DEV)
	$(BIN)/python -m pytest $(PARALLEL) --hypothesis-profile=long

check: lint types test

check-long: lint types test-long

lint: $(INSTALLED_DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(INSTALLED_DEV)
	$(BIN)/mypy

format: $(INSTALLED_DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED_DEV)
	$(BIN)/python -m bench

bench-local: $(INSTALLED_DEV)
	$(BIN)/python -m bench.local

crowd: $(INSTALLED_DEV)
	$(BIN)/python -m bench.crowd

faults: $(INSTALLED_DEV)
	$(BIN)/python -m bench.faults

soak: $(INSTALLED_DEV)
	$(BIN)/python -m bench.soak

reloads: $(INSTALLED_DEV)
	$(BIN)/python -m bench.reloads

simulate: $(INSTALLED_DEV)
	$(BIN)/python -m bench.simulate

lock:
	@$(LOCK_PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 11, 3))' || \
		{ echo "the locks need Python 3.11.0 to 3.11.2: make lock LOCK_PYTHON=/path/to/python3.11"; exit 1; }
	@$(LOCK_PYTHON) -m venv $(LOCK)
	@$(LOCK)/bin/python -m pip install --quiet --disable-pip-version-check pip-tools
	$(PIP_COMPILE) --output-file requirements.txt pyproject.toml
	$(PIP_COMPILE) --extra dev --output-file requirements-dev.txt pyproject.toml
	@rm -rf $(LOCK)

clean:
	rm -rf $(VENV) $(LOCK) .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "one_api needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "no environment could be made: on Debian and Ubuntu install python3-venv first"; exit 1; }
	@# Python 3.11 puts an old setuptools there, which nothing needs; pip is brought up to date by the locks.
	@$(BIN)/python -m pip uninstall --quiet --yes --disable-pip-version-check setuptools

$(INSTALLED): $(VENV)/pyvenv.cfg requirements.txt
	@echo "installing requirements.txt, which takes up to a minute"
	@$(PIP_INSTALL) requirements.txt
	@touch $@

$(INSTALLED_DEV): $(INSTALLED) requirements-dev.txt
	@echo "installing requirements-dev.txt, which takes up to a minute"
	@$(PIP_INSTALL) requirements-dev.txt
	@touch $@
