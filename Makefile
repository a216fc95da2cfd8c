# make demo    ten agents learn CartPole together, in a minute
# make test    the tests
# make check   format, lint, types, layers
# make bench   the numbers of the documentation, measured here
# make docs    the documentation as a site

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test check bench docs clean

demo: $(STAMP)
	$(BIN)/fedrl run examples/cartpole.toml

test: $(STAMP)
	$(BIN)/pytest -n 2

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python -m benchmarks

docs: $(STAMP)
	$(BIN)/pip install --quiet --group docs
	$(BIN)/mkdocs build --strict

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet --editable . --group test --group check
	touch $@

clean:
	rm -rf .venv site .mypy_cache .pytest_cache .ruff_cache
