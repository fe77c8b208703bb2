# Two commands are all a newcomer needs: `make demo` and `make test`. Each makes its own environment in .venv.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo figures test lint verify torture bench bench-scaling docs clean

demo: .venv/.run
	$(BIN)/flossing demo

figures: .venv/.develop
	$(BIN)/flossing paper --scale laptop --out paper

test: lint
	$(BIN)/pytest -n 2 --dist loadfile

lint: .venv/.develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

torture: .venv/.develop
	$(BIN)/python -m tests.torture --kills 50
	$(BIN)/pytest -n 2 --dist loadfile -m slow tests/test_resume.py tests/test_sweep.py tests/test_paper.py tests/test_paper_figures.py tests/test_comparison.py

verify: .venv/.develop
	$(BIN)/python -m verification

bench: .venv/.bench
	$(BIN)/python -m benchmarks

bench-scaling: .venv/.bench
	$(BIN)/python -m benchmarks.scaling

docs: .venv/.develop
	$(BIN)/sphinx-build -W --keep-going -q docs docs/_build/html
	@echo "open docs/_build/html/index.html"

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.run: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) -e '.[runs]'
	touch $@

.venv/.develop: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) -e '.[runs,test,docs]'
	touch $@ .venv/.run

.venv/.bench: .venv/.develop
	$(INSTALL) -e '.[bench]'
	touch $@

clean:
	rm -rf .venv docs/_build docs/jupyter_execute .jupyter_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
