PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: help demo test slow check clean

help:             ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*## */\t/'

$(VENV)/.installed: pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

demo: $(VENV)/.installed   ## train, evaluate, export, reload and predict on embedded digits
	rm -rf runs/demo
	$(BIN)/python -m keras_effv2.demo runs/demo

test: $(VENV)/.installed   ## the default tests, two files at a time
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations=8

slow: $(VENV)/.installed   ## the slow tests
	$(BIN)/python -m pytest -q -m slow --durations=8

check: $(VENV)/.installed  ## format, lint, types and the default tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test

clean:            ## remove what make made
	rm -rf $(VENV) runs build *.egg-info
