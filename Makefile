# `make run` runs the pipeline. `make test` runs lint, types and tests. Both set up .venv if it is missing. They need
# Python 3.11, git, make and, for the set-up, the network.

ifndef PYTHON
PYTHON := $(firstword $(shell command -v python3.11 || command -v python3) python3.11)
endif
BIN := .venv/bin

# `python` in dvc.yaml is that of .venv. Bytecode is kept: with it TensorFlow starts in 6 s, without it in 20 s.
export PATH := $(CURDIR)/$(BIN):$(PATH)
unexport PYTHONDONTWRITEBYTECODE
unexport PYTHONPATH
unexport PYTHONHOME

# No tool that is started here sends usage data.
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT := false

.DEFAULT_GOAL := help
.PHONY: help run test first-half second-half docs screenshots mutants lock clean

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' Makefile | expand -t 18

run: .venv/.installed  ## run the pipeline (dvc repro), by default on the built-in digits
	dvc repro

test: .venv/.installed  ## run lint, types and tests
	ruff check
	ruff format --check
	mypy
	@echo "pytest runs in two processes, and each prints when it ends"
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target first-half second-half

# Two halves of the tests, about as long. Most tests keep one core busy.
first-half:
	@pytest tests/test_[a-e]*.py tests/test_federate_[a-c]*.py

second-half:
	@pytest --ignore-glob='tests/test_[a-e]*.py' --ignore-glob='tests/test_federate_[a-c]*.py'

docs: .venv/.installed  ## write docs/settings.md from tasks/settings
	python -m docs.settings

screenshots: .venv/.installed  ## take the pictures in docs/images again; needs chromium, ten minutes
	python -m docs.screenshots

mutants: .venv/.installed  ## list small changes of the code that no test notices (takes hours)
	mutmut run
	mutmut results

lock: .venv/.installed  ## compile requirements.lock from pyproject.toml
	uv pip compile pyproject.toml --group dev --python-version 3.11 --python-platform x86_64-manylinux_2_31 \
		--generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" \
		-o requirements.lock -q

clean:  ## remove .venv and the tools' caches; keep data, models and DVC's cache
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis

# The stamp is written last, so that an interrupted install is repeated. pip installs only uv, by its hash: for the
# other packages, pip takes eight times as long as uv. `--overrides requirements.lock` replaces the overrides in
# pyproject.toml. With those, uv would choose the newest release that they allow, and then refuse it because the lock
# has no hash of it.
.venv/.installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || \
		{ echo "error: Python 3.11 is needed, got $$($(PYTHON) --version 2>&1): make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "setting up .venv (once, about a minute)"
	@$(PYTHON) -m venv --clear .venv
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > .venv/uv.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r .venv/uv.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes --compile-bytecode \
		--overrides requirements.lock --build-constraints requirements.lock -r requirements.lock
	@touch $@
