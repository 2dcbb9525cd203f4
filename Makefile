# `make run` serves, `make test` tests; both set up what they need. `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
# Four processes for two cores, because tests wait for half of their time. The tests of one file stay together: they share
# a gateway. The files come in the order of tests/conftest.py, the longest first.
PARALLEL := -n 4 --dist loadfile
PIP_INSTALL := $(BIN)/python -m one_api.install
# The programs that judge the files in deploy/.
DEPLOY := .venv-deploy
INSTALLED_DEPLOY := $(DEPLOY)/.installed
# The locks are made on the oldest Python that the project runs on: newer ones need a part of its packages.
LOCK_PYTHON ?= /usr/bin/python3
LOCK := .lock-venv
PIP_COMPILE = $(LOCK)/bin/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe --no-emit-index-url \
	--no-emit-find-links

.PHONY: help install run test test-long check check-long check-clients check-deploy format lint types bench bench-local cost crowd faults soak reloads accounts limits observing scale simulate prices dist lock clean

help:
	@echo "make run     set up, fetch the small local model, and serve on http://127.0.0.1:8000"
	@echo "make install only make the environment in .venv"
	@echo "make test    set up, and run every test"
	@echo "make check   format, lint and types checked, then every test"
	@echo "make check-long  the same, with many more examples for each property test"
	@echo "make check-clients  fetch real clients (Codex, the Agents SDK) and run them against the gateway"
	@echo "make check-deploy  judge the files in deploy/, with nginx, Caddy, HAProxy, promtool and the like"
	@echo "make format  format the code"
	@echo "make bench   measure speed against the upstream asked directly (LITELLM=1: and against LiteLLM)"
	@echo "make bench-local  tokens per second of the local model against its engine asked directly"
	@echo "make cost    CPU per request and per chunk against the last release (AGAINST=DIR: another checkout, in turns)"
	@echo "make crowd   500 slow clients of each kind: do others notice?"
	@echo "make faults  what failing upstreams cost the clients of a group"
	@echo "make soak    20,000 requests on new connections: does anything leak?"
	@echo "make reloads 100 reloads and 60 killed workers under 100 streams: is anything cut?"
	@echo "make accounts  what the ledger and a budget cost a request, in CPU and memory"
	@echo "make limits  20 races for one limit on a loaded machine, over file, Redis and memory: is each exact?"
	@echo "make observing  what metrics and traces cost: CPU of a request, and how late others are during a scrape"
	@echo "make scale   what 10, 100 and 1,000 gateways ask of Redis, PostgreSQL and upstreams, by measured costs"
	@echo "make simulate  who is chosen in a group when something befalls it, as a table and simulation.png"
	@echo "make prices  the catalogue of prices anew, from the package genai-prices"
	@echo "make dist    wheel, sdist and SBOM into dist/, built twice and compared"
	@echo "make lock    pin the dependencies of pyproject.toml anew, with hashes"

install: $(INSTALLED)

run: $(INSTALLED)
	@$(BIN)/python -m one_api.quickstart
	@exec $(BIN)/gunicorn wsgi:app

test: $(INSTALLED_DEV)
	$(BIN)/python -m pytest $(PARALLEL)

test-long: $(INSTALLED_DEV)
	$(BIN)/python -m pytest $(PARALLEL) --hypothesis-profile=long

# What of the programs that judge deploy/ comes from PyPI is there for every check; the others are for check-deploy.
check: lint types $(INSTALLED_DEPLOY) test

check-long: lint types $(INSTALLED_DEPLOY) test-long

check-deploy: $(INSTALLED_DEV) $(INSTALLED_DEPLOY)
	@.ci/deploy-tools
	ONE_API_REQUIRE_TOOLS=1 $(BIN)/python -m pytest tests/deploy

check-clients: $(INSTALLED_DEV)
	$(BIN)/python -m pytest -q -o python_files='check_*.py' tests/clients

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
	$(BIN)/python -m bench.cost

cost: $(INSTALLED_DEV)
	$(BIN)/python -m bench.cost $(if $(AGAINST),--against $(AGAINST))

bench-local: $(INSTALLED_DEV)
	$(BIN)/python -m bench.local

crowd: $(INSTALLED_DEV)
	$(BIN)/python -m bench.crowd

faults: $(INSTALLED_DEV)
	$(BIN)/python -m bench.faults

soak: $(INSTALLED_DEV)
	$(BIN)/python -m bench.soak

observing: $(INSTALLED_DEV)
	$(BIN)/python -m bench.observing

accounts: $(INSTALLED_DEV)
	$(BIN)/python -m bench.accounts

limits: $(INSTALLED_DEV)
	$(BIN)/python -m bench.limits

reloads: $(INSTALLED_DEV)
	$(BIN)/python -m bench.reloads

scale: $(INSTALLED_DEV)
	$(BIN)/python -m bench.scale

simulate: $(INSTALLED_DEV)
	$(BIN)/python -m bench.simulate

prices: $(INSTALLED_DEV)
	$(BIN)/python -m bench.prices

dist: $(INSTALLED_DEPLOY)
	@.ci/dist $(DEPLOY)/bin dist

lock:
	@$(LOCK_PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 11, 3))' || \
		{ echo "the locks need Python 3.11.0 to 3.11.2: make lock LOCK_PYTHON=/path/to/python3.11"; exit 1; }
	@$(LOCK_PYTHON) -m venv $(LOCK)
	@$(LOCK)/bin/python -m pip install --quiet --disable-pip-version-check pip-tools
	$(PIP_COMPILE) --output-file requirements.txt pyproject.toml requirements-local.in
	$(PIP_COMPILE) --extra postgres --output-file requirements-postgres.txt pyproject.toml
	$(PIP_COMPILE) --extra otel --output-file requirements-otel.txt pyproject.toml
	$(PIP_COMPILE) --extra dev --output-file requirements-dev.txt pyproject.toml requirements-local.in
	$(PIP_COMPILE) --output-file requirements-deploy.txt requirements-deploy.in
	@rm -rf $(LOCK)

clean:
	rm -rf $(VENV) $(DEPLOY) $(LOCK) dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

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

$(INSTALLED_DEPLOY): $(INSTALLED) requirements-deploy.txt
	@echo "installing requirements-deploy.txt into $(DEPLOY), which takes up to a minute"
	@$(BIN)/python -m venv $(DEPLOY)
	@$(DEPLOY)/bin/python -m one_api.install requirements-deploy.txt
	@touch $@
