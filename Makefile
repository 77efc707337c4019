# Python >= 3.11, pip and make are all that is needed; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
# Two tests at a time, of one thread each: on two cores that takes the least time.
TESTS := OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2
INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help train test test-slow bench lint format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

train: $(READY) ## train the embedded default; pass settings with ARGS="rewards=no_xmlcount num_generations=8"
	@$(RUN) -m grpo.train $(ARGS)

test: $(READY) ## run the tests; pass pytest's options with ARGS="-k rewards"
	@$(TESTS) $(ARGS)

test-slow: $(READY) ## run the tests that take minutes
	@$(TESTS) -m slow $(ARGS)

bench: $(READY) ## time a step against TRL's, side by side; pass options with ARGS="--grid"
	@$(RUN) scripts/benchmark.py $(ARGS)

lint: $(READY) ## check style, types and the direction of imports
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy
	@$(VENV)/bin/lint-imports

format: $(READY) ## rewrite the code in the project's style
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

clean: ## remove the environment; outputs/ stays
	rm -rf $(VENV)

# On Linux a plain `pip install torch` brings gigabytes of CUDA. A machine without an NVIDIA driver takes the CPU build
# instead, from PyTorch's own index; where that cannot be reached, the default index gives the same version.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name another with make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@echo "Setting up $(VENV) (once; a few minutes)"
	@$(PYTHON) -m venv $(VENV)
	@if [ "$$(uname)" = Linux ] && ! command -v nvidia-smi >/dev/null; then \
		$(INSTALL) --timeout 10 --retries 0 --extra-index-url https://download.pytorch.org/whl/cpu \
			"torch==2.13.0+cpu" 2>/dev/null || $(INSTALL) "torch==2.13.0"; \
	fi
	@$(INSTALL) --editable ".[dev]"
	@touch $(READY)
