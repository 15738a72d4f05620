# `make demo` and `make test` do everything on a fresh machine with Python >= 3.11.
PYTHON ?= python3
OUT ?= demo
BIN := .venv/bin

.PHONY: demo test test-long test-peers lint docs

demo: .venv/installed
	$(BIN)/tuition demo --out $(OUT)

test: .venv/installed-dev
	$(BIN)/pytest -n 2 -m "not long"

test-long: .venv/installed-dev
	$(BIN)/pytest -n 2 -m long

# Teachers against servers that others wrote, from an environment of their own, because they pin other versions.
test-peers: .venv/installed-dev .venv-peers/installed
	$(BIN)/pytest tests/teachers/test_peers.py

# The site, in site/; a link that leads nowhere or a page that is missing is an error.
docs: .venv/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/measure.py --check
	$(BIN)/python tools/words.py

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

.venv-peers/installed: tests/peers.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet --requirement $<
	touch $@
