# `make run`: the main job. `make test`: lint, types and tests. Both set up .venv first, if need be; neither needs more
# than Python 3.11, git, make, and the network once, for the packages.

ifndef PYTHON
PYTHON := $(firstword $(shell command -v python3.11 || command -v python3) python3.11)
endif
BIN := .venv/bin

# `python` in dvc.yaml is the environment's; bytecode is kept, for TensorFlow starts in 6 s with it and 20 s without.
export PATH := $(CURDIR)/$(BIN):$(PATH)
unexport PYTHONDONTWRITEBYTECODE
unexport PYTHONPATH
unexport PYTHONHOME

# Nothing that is started here calls home.
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT := false

.DEFAULT_GOAL := help
.PHONY: help run test mutants lock clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' Makefile | expand -t 14

run: .venv/.installed  ## the main job on the embedded data: dvc repro
	dvc repro

test: .venv/.installed  ## lint, types and tests
	ruff check
	ruff format --check
	mypy
	pytest

mutants: .venv/.installed  ## change the code a little, a thousand times: which changes does no test see? Hours
	mutmut run
	mutmut results

lock: .venv/.installed  ## compile requirements.lock again from pyproject.toml
	uv pip compile pyproject.toml --group dev --python-version 3.11 --python-platform x86_64-manylinux_2_31 \
		--generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" \
		-o requirements.lock -q

clean:  ## remove the environment and the tools' caches; data, models and DVC's cache stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis

# The stamp comes last: an install that was broken off is done again. pip installs only uv, by its hash, because pip
# takes eight times as long for the rest. The overrides in pyproject.toml are for `make lock`: unless the lock overrides
# them again, uv takes the newest release that they allow in place of the lock's, and refuses it for want of a hash.
.venv/.installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || \
		{ echo "error: Python 3.11 is needed, got $$($(PYTHON) --version 2>&1): make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "setting up .venv, once: about a minute"
	@$(PYTHON) -m venv --clear .venv
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > .venv/uv.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r .venv/uv.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes --compile-bytecode \
		--overrides requirements.lock --build-constraints requirements.lock -r requirements.lock
	@touch $@
