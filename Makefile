# `make demo` and `make test` do everything on a fresh machine with Python >= 3.11.
PYTHON ?= python3
OUT ?= demo
BIN := .venv/bin

.PHONY: demo test test-long lint

demo: .venv/installed
	$(BIN)/tuition demo --out $(OUT)

test: .venv/installed-dev
	$(BIN)/pytest -n 2 -m "not long"

test-long: .venv/installed-dev
	$(BIN)/pytest -n 2 -m long

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@
