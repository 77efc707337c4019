# Python >= 3.11, pip and make are all that is needed; everything else goes into .venv. uv takes pip's place where it is
# installed: it is several times as fast.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
TESTS_READY := $(VENV)/.ready-for-tests
# Two tests at a time, of one thread each: on two cores that takes the least time.
TESTS := OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist worksteal
UV := $(shell command -v uv)
# The newest torch that the tests have passed with; used on machines without a GPU.
TORCH ?= 2.15.0
CPU_INDEX := https://download.pytorch.org/whl/cpu
# The tests of kernels run in its interpreter. Only a CUDA build of torch brings its own, and with 3.9 a process prints
# about 35 lines of nanobind's leaked objects when it ends.
TRITON := "triton>=3.4,<3.9"
CPU_ONLY := [ "$$(uname)" = Linux ] && ! command -v nvidia-smi >/dev/null
ifdef UV
CREATE := $(UV) venv --quiet --allow-existing --seed --python $(PYTHON)
INSTALL := $(UV) pip install --quiet --python $(RUN)
CPU_TORCH := UV_HTTP_TIMEOUT=10 UV_HTTP_RETRIES=0 $(INSTALL) --torch-backend cpu "torch==$(TORCH)"
else
CREATE := $(PYTHON) -m venv
INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check
# If PyTorch's index cannot be reached, pip takes a torch wheel from its own folder of wheels (find-links), if it has one.
CPU_TORCH := $(INSTALL) --timeout 10 --retries 0 --extra-index-url $(CPU_INDEX) "torch==$(TORCH)+cpu" 2>/dev/null \
	|| $(INSTALL) --no-index --no-deps torch
endif

# The oldest versions that pyproject.toml permits, and what is tested with them: the equality with TRL's step, samplers,
# prefix sharing, loading of policies, settings, resume, the report of a run, and training of the embedded policy.
LOWEST := .venv-lowest
LOWEST_TESTS := tests/training/test_trainer.py tests/training/test_trl.py::test_the_methods_that_are_overridden \
	tests/policy/test_prefix_sharing.py tests/policy/test_loading.py tests/sampling/test_samplers.py \
	tests/config/test_config.py tests/runs/test_resume.py tests/reports/test_run_report.py \
	tests/training/test_default.py
INSTALL_LOWEST := UV_HTTP_TIMEOUT=30 $(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python \
	--resolution lowest-direct --editable ".[dev]"

.DEFAULT_GOAL := help
.PHONY: help train test test-slow test-lowest bench lint docs format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

train: $(READY) ## train the embedded default; pass settings with ARGS="rewards=no_xmlcount num_generations=8"
	@$(RUN) -m grpo.train $(ARGS)

test: $(TESTS_READY) ## run the tests; pass pytest's options with ARGS="-k rewards"
	@$(TESTS) $(ARGS)

test-slow: $(TESTS_READY) ## run the tests that take minutes
	@$(TESTS) -m slow $(ARGS)

test-lowest: ## run the essential tests with the oldest versions that pyproject.toml permits (Python 3.11 or 3.12)
	@$(PYTHON) -m venv $(LOWEST)
	@$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	@$(CPU_ONLY) && $(INSTALL_LOWEST) --torch-backend cpu 2>/dev/null || $(INSTALL_LOWEST)
	@$(LOWEST)/bin/uv pip freeze --python $(LOWEST)/bin/python
	@OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n 2 $(LOWEST_TESTS) $(ARGS)

bench: $(READY) ## time a step against TRL's, side by side; pass options with ARGS="--grid"
	@$(RUN) scripts/benchmark.py $(ARGS)

lint: $(READY) ## check style, types and the direction of imports
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy
	@$(VENV)/bin/lint-imports

docs: $(READY) ## build the site of docs/ into site/; open site/index.html
	@NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet
	@echo "Open site/index.html"

format: $(READY) ## rewrite the code in the project's style
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

clean: ## remove the environments; outputs/ stays
	rm -rf $(VENV) $(LOWEST)

# On Linux a plain `pip install torch` brings gigabytes of CUDA. A machine without an NVIDIA driver takes the CPU build
# instead, from PyTorch's own index; where that cannot be reached, the default index gives the CUDA build.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name another with make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@echo "Setting up $(VENV) (once; a few minutes)"
	@$(CREATE) $(VENV)
	@if $(CPU_ONLY); then $(CPU_TORCH); fi 2>/dev/null || true
	@$(INSTALL) --editable ".[dev]"
	@touch $(READY)

$(TESTS_READY): $(READY)
	@if $(CPU_ONLY); then \
		echo "Installing Triton for the tests of kernels (once)"; \
		$(INSTALL) $(TRITON) || echo "Triton cannot be installed: the tests of kernels are skipped"; \
	fi
	@touch $(TESTS_READY)
