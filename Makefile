# Every target sets up what it needs: `make test` on a fresh clone is enough.

PYTHON ?= python3
# Extras to install, for example EXTRAS=dev,cuda12.
EXTRAS ?= dev
# Arguments for the program a target runs, for example ARGS="-k prox -x".
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo quick test test-aot strict check docs clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

demo: $(STAMP) ## train dense and structured networks, side by side
	$(BIN)/python -m examples.demo $(ARGS)

test: $(STAMP) ## run the tests and the examples in the docstrings
	$(BIN)/python -m pytest --daily -n logical --maxprocesses 8 --dist worksteal $(ARGS)

# One process per step, and no workers: a compiler takes what cores there are.
test-aot: $(STAMP) ## compile steps for a GPU and a TPU, and count what they launch
	$(BIN)/python -m pytest -n 0 tests/aot $(ARGS)

# Those tests that promote nothing themselves, and make no NaN on purpose.
STRICT := tests/test_strict.py tests/schedules tests/specs tests/transforms/test_states.py

strict: $(STAMP) ## run tests where JAX promotes nothing and NaN are errors
	JAX_NUMPY_DTYPE_PROMOTION=strict JAX_NUMPY_RANK_PROMOTION=raise JAX_DEBUG_NANS=1 \
	    $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal \
	    $(STRICT) $(ARGS)

quick: $(STAMP) ## run one case of every law, truth, trajectory and model
	$(BIN)/python -m pytest --quick -n logical --maxprocesses 8 --dist worksteal \
	    tests $(ARGS)

# Pyright would ask the network for a newer version of itself.
check: $(STAMP) ## check formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

docs: $(STAMP) ## run the sessions and notebooks of the pages, and build out/docs
	$(BIN)/python -m pytest -q -n logical --maxprocesses 8 tests/docs/test_docs.py
	$(BIN)/python -m sphinx -b html --fail-on-warning --keep-going docs out/docs $(ARGS)

clean: ## remove the virtual environment and the caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist out/docs
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is the last thing made. Without it a set-up was never finished, and starts
# again from nothing; with it, a newer pyproject.toml only updates the environment.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo 'error: Python 3.11 or newer is needed, and `$(PYTHON)` is not.' \
	        'Name one that is: make PYTHON=python3.11 ...' >&2; exit 1; }
	@[ -e $@ ] || rm -rf $(VENV)
	@rm -f $@
	@set -e; if command -v uv >/dev/null; then \
	    [ -d $(VENV) ] || uv venv --python $(PYTHON) $(VENV); \
	    uv pip install --python $(BIN)/python -e '.[$(EXTRAS)]'; \
	else \
	    [ -d $(VENV) ] || $(PYTHON) -m venv $(VENV); \
	    $(BIN)/python -m pip install -e '.[$(EXTRAS)]'; \
	fi
	@touch $@
