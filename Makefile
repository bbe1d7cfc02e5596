# Two commands to know: `make demo` (everything, with traffic) and `make test`.
# uv makes the environment where it is to be had (a copy from PyPI otherwise); INSTALLER=pip does without it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FOR ?=
DATA ?=
INSTALLER ?= uv
# Tests at a time: many of them wait for other processes most of the time. 0: one after the other, in one process.
AT_ONCE ?= 2
STARTED := $(shell date +%s)

# uv from the PATH, or one kept beside the environment.
UV = $(shell command -v uv || echo $(CURDIR)/$(VENV)/uv/bin/uv)

.PHONY: demo test debian-tools tracker-tools check contract format lock clean

demo: $(VENV)/runtime.stamp
	@$(BIN)/python -m ledstream demo --started-at $(STARTED) $(if $(FOR),--for $(FOR)) $(if $(DATA),--data $(DATA))

test: $(VENV)/dev.stamp debian-tools tracker-tools
	OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(AT_ONCE) --dist worksteal

# A browser and a Redis, from Debian where root may install them. Elsewhere tests look for them and say what is missing.
debian-tools:
	@command -v chromium > /dev/null && command -v redis-server > /dev/null || [ "$$(id -u)" != 0 ] || ! command -v apt-get > /dev/null \
	|| { echo "installing chromium and redis-server"; apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
	apt-get install -qq -y --no-install-recommends chromium redis-server > /dev/null; } || echo "not installed"

# What builds the tracker, for the test that its built file is that of its source, and what looks for barriers in pages (axe).
tracker-tools:
	@cd clients/js && { [ -e node_modules/.bin/esbuild ] && [ -e node_modules/axe-core ] || npm ci --silent || echo "no npm: the tracker is tested as built, pages without axe"; }

check: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	cd clients/python && $(CURDIR)/$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layering.py tests/test_docs.py

# Takes down what the HTTP interface has got since; refuses where it would no longer be what others build on.
contract: $(VENV)/dev.stamp
	LEDSTREAM_TEST_RENEW=1 $(BIN)/python -m pytest -q tests/contract

format: $(VENV)/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Newer versions, for when you want them.
lock: $(VENV)/base.stamp
	$(UV) pip compile -q -U --universal --python-version 3.11 --no-header pyproject.toml -o requirements.lock
	$(UV) pip compile -q -U --universal --python-version 3.11 --no-header --extra dev --extra train --extra baselines -c requirements.lock pyproject.toml -o requirements-dev.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

$(VENV)/base.stamp:
	$(PYTHON) -m venv $(VENV)
	@[ $(INSTALLER) = pip ] || [ -x "$(UV)" ] || { $(PYTHON) -m venv $(VENV)/uv && $(VENV)/uv/bin/pip install -q uv; }
	@touch $@

$(VENV)/runtime.stamp: requirements.lock $(VENV)/base.stamp
	$(call install,requirements.lock)
	@touch $@

$(VENV)/dev.stamp: requirements-dev.lock requirements.lock $(VENV)/base.stamp
	$(call install,requirements-dev.lock)
	@touch $@

define install
	@echo "installing $(1)"
	@if [ $(INSTALLER) = pip ]; then $(BIN)/pip install -q -r $(1); else $(UV) pip install -q -p $(BIN)/python -r $(1); fi
	@if [ $(INSTALLER) = pip ]; then $(BIN)/pip install -q --no-deps -e .; else $(UV) pip install -q -p $(BIN)/python --no-deps -e .; fi
endef
