# Farebox: `make demo` shows it, `make test` proves it. Nothing has to be installed before.

PYTHON ?= python3
BIN := .venv/bin
# Extra words for pytest, such as PYTEST_ARGS="-k pg18 -x".
PYTEST_ARGS ?=
BENCH ?= scenario pg15 create --floor

.DELETE_ON_ERROR:
# Linters, then tests, whatever -j says: the closing line of pytest is the last word.
.NOTPARALLEL:
.PHONY: help setup demo demo-shards test lint check pgtap apt bench picture migration clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 24

setup: .venv/.dev ## the virtual environment with everything for development

demo: .venv/.run ## set up, start the embedded server, sell a morning's tickets
	$(BIN)/farebox demo

demo-shards: .venv/.run ## three shards, one of which is killed; needs what `make apt` installs
	$(BIN)/farebox shards demo

test: apt lint check ## everything; on Debian as root it first installs what it needs

lint: .venv/.dev ## linters and type checks
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

check: .venv/.dev ## the tests alone
	$(BIN)/pytest -n auto $(PYTEST_ARGS)

pgtap: .venv/.dev ## only the tests in SQL
	$(BIN)/pytest tests/test_pgtap.py $(PYTEST_ARGS)

apt: .venv/.dev ## what the tests need from Debian; .ci/debian-packages lists it
	@.ci/debian-packages
	@.ci/newer-pgbouncer .venv/pgbouncer

bench: .venv/.bench ## a benchmark: make bench BENCH="queue_rate --what fairness"
	$(BIN)/python -m tests.bench $(BENCH)

picture: .venv/.dev ## the picture of `farebox top` in driver/OPERATIONS.md, from a real terminal (tmux)
	$(BIN)/python -m tests.tools.top_picture driver/top.svg

migration: .venv/.dev ## freeze what changed in db/: NAME=verb-object; without it the unreleased ones anew
	$(BIN)/python -m tests.tools.freeze_migrations $(if $(NAME),--new $(NAME),--regenerate-unreleased)

clean: ## remove the virtual environment and what tools leave behind; data of the embedded server stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each set of extras: nothing is asked of a registry while pyproject.toml stays as it is.
.venv/.run: EXTRAS = embedded
.venv/.dev: EXTRAS = embedded,dev
.venv/.bench: EXTRAS = embedded,bench
.venv/.run .venv/.dev .venv/.bench: pyproject.toml
	@PYTHON="$(PYTHON)" .ci/setup "$(EXTRAS)"
	@touch $@
