PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3
# what touches Keras, TensorFlow and locks most, in about four minutes
QUICK := $(addprefix tests/test_,compatibility.py exporting_publishing.py files.py graph.py hub.py \
	layers_backend.py layers_batch_normalization.py layers_convolution.py layers_dropout.py models.py \
	rematerialization.py training_run.py weights_loading.py)

.PHONY: help demo test slow floor lint check docs dist clean

help:             ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*## */\t/'

$(VENV)/.installed: pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(addprefix -c ,$(CONSTRAINTS)) -e '.[dev]'
	touch $@

demo: $(VENV)/.installed   ## train, evaluate, export, reload and predict on embedded digits
	rm -rf runs/demo
	$(BIN)/python -m keras_effv2.demo runs/demo

test: $(VENV)/.installed   ## the default tests, two files at a time
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations=8

slow: $(VENV)/.installed   ## the slow tests
	$(BIN)/python -m pytest -q -m slow --durations=8

floor:            ## the quick tests with the lowest Keras and TensorFlow of pyproject.toml, without fcntl
	$(MAKE) VENV=.venv-floor CONSTRAINTS=tests/floor.txt .venv-floor/.installed
	PYTHONPATH=$(CURDIR)/tests/portable .venv-floor/bin/python -m pytest -q -n 2 --dist loadfile $(QUICK)

lint: $(VENV)/.installed   ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test docs  ## format, lint, types, the default tests and the site

.venv-docs/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --upgrade pip
	.venv-docs/bin/python -m pip install --quiet '.[docs]'
	touch $@

docs: .venv-docs/.installed  ## the site, into site/; a dead link fails
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --strict

.venv-dist/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-dist
	.venv-dist/bin/python -m pip install --quiet --upgrade pip
	.venv-dist/bin/python -m pip install --quiet --group dist
	touch $@

dist: .venv-dist/.installed  ## sdist and wheel, checked, into dist/
	rm -rf dist build
	.venv-dist/bin/check-manifest
	.venv-dist/bin/python -m build
	.venv-dist/bin/twine check --strict dist/*
	.venv-dist/bin/pyroma --min=9 .

clean:            ## remove what make made
	rm -rf $(VENV) .venv-floor .venv-docs .venv-dist runs build dist site *.egg-info
