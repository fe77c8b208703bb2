# Two commands are all a newcomer needs: `make demo` and `make test`. Each makes its own environment in .venv.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt
# Tests of the library alone: they need neither the laboratory nor PyTorch, and take under two minutes.
CORE := $(addprefix tests/test_,$(addsuffix .py,adjoint batch errors floss gradients identities lyapunov measures norm qr states))

# Hundreds of short processes import the same packages; without bytecode each would compile them again, for seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo figures test pytest test-core test-floor test-newest print-core lint dist verify torture bench bench-scaling docs clean

demo: .venv/.lab
	$(BIN)/flossing demo

figures: .venv/.develop
	$(BIN)/flossing paper --scale laptop --out paper

# The linters use one core and tests two: side by side they end sooner.
test: .venv/.develop
	@$(MAKE) --no-print-directory -j2 lint pytest

pytest: .venv/.develop
	$(BIN)/pytest -n 2 --dist loadfile

test-core: .venv/.develop
	$(BIN)/pytest -n 2 --dist loadfile $(CORE)

print-core:
	@echo $(CORE)

# The core tests on the lowest versions that pyproject.toml admits, and on the newest.
test-floor test-newest: test-%: .venv/.develop
	$(BIN)/python -m tests.versions $* $(CORE)

lint: .venv/.develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

# Build wheel and sdist, install the wheel in an empty environment, run the core tests there from the sdist's files.
dist: .venv/.develop
	$(BIN)/python -m tests.dist $(CORE)

torture: .venv/.develop
	$(BIN)/python -m tests.torture --kills 50
	$(BIN)/pytest -n 2 --dist loadfile -m slow tests

verify: .venv/.develop
	$(BIN)/python -m verification

bench: .venv/.bench
	$(BIN)/python -m benchmarks

bench-scaling: .venv/.bench
	$(BIN)/python -m benchmarks.scaling

docs: .venv/.develop
	$(BIN)/sphinx-build -j 6 -W --keep-going -q docs docs/_build/html
	$(BIN)/python -m pytest -q -p no:cacheprovider tests/site.py
	@echo "open docs/_build/html/index.html"

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.lab: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) -e '.[lab]'
	touch $@

.venv/.develop: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) -e '.[lab,test,docs]'
	touch $@ .venv/.lab

.venv/.bench: .venv/.develop
	$(INSTALL) -e '.[bench]'
	touch $@

clean:
	rm -rf .venv dist docs/_build docs/jupyter_execute .jupyter_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
