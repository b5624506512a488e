# make install, then make fast while working and make check test before a commit; .ci/run does all of it from nothing.

PYTHON ?= python
PYTEST = $(PYTHON) -m pytest -p no:cacheprovider -q

.PHONY: install check test fast

install:  ## everything that a test needs from the registry
	$(PYTHON) -m pip install -q -e ".[test]"

check:  ## formatter, linter, types; changes nothing
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy

test:  ## every test; two at a time where there are two cores
	$(PYTEST) -n 2 --dist loadfile

fast:  ## format, lint, and the tests of the library: under a minute
	$(PYTHON) -m ruff format -q .
	$(PYTHON) -m ruff check -q --fix .
	$(PYTEST) -x -m "not slow" tests/runtime tests/test_architecture.py
