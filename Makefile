# What a new machine needs is Python 3.11 or later, pip and make; the first target that needs more installs it in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# Two processes share the files, in order: long ones lie in the middle, and short ones fill up the end.
TWO := -n 2 --dist loadfile --no-loadscope-reorder
export RAY_USAGE_STATS_ENABLED := 0

.DEFAULT_GOAL := help
.PHONY: help run test test-slow check bench ui clean

help: ## say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

.venv/ready: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[dev]'
	@touch $@

.venv/programs: .venv/ready # what tests start: from Debian's packages, where there are these and the right to install them
	@missing=; \
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || missing=postgresql; \
	command -v chromium >/dev/null || missing="$$missing chromium"; \
	if [ -z "$$missing" ]; then touch $@; \
	elif [ "$$(id -u)" = 0 ] && apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y \
		--no-install-recommends install $$missing >/dev/null; then touch $@; \
	else echo "not installed, and their tests are skipped: $$missing" >&2; fi

run: .venv/ready ## the main job: learn on Latin and Greek letters, read Armenian and Georgian ones
	$(BIN)/bilevel run search_spaces/alphabets_maml.py

test: .venv/programs ## format, lint, types, floors, and the tests (under 15 minutes on 2 cores)
	$(MAKE) check
	$(BIN)/pytest tests/execute/test_forks.py # forks of a process that has never had Ray's threads
	$(BIN)/pytest -m 'not slow' --ignore=tests/execute/test_forks.py $(TWO)

test-slow: .venv/programs ## the tests that take longest: drivers, workers and clusters are killed
	$(BIN)/pytest -m slow $(TWO)

check: .venv/ready ## format, lint, strict types, import floors
	$(BIN)/ruff format --check platform search_spaces tests
	$(BIN)/ruff check platform search_spaces tests
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: .venv/ready ## speed, side by side with learn2learn, higher and TorchOpt (installs them under .bench)
	$(BIN)/python tests/benchmarks/speed.py

ui: .venv/ready ## the MLflow dashboard of ./runs on http://127.0.0.1:5000
	$(BIN)/bilevel ui

clean: ## remove what was installed and built here (not the runs)
	rm -rf .venv .bench build dist
