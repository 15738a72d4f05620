# `make demo` and `make test` do everything on a fresh machine with Python >= 3.11.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-long lint

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: .venv/installed
	$(BIN)/tuition demo --out demo

test: .venv/installed
	$(BIN)/pytest -n 2 -m "not long"

test-long: .venv/installed
	$(BIN)/pytest -n 2 -m long

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
