# DITS: one command a task. `make help` lists them.
SHELL := /bin/bash
.DELETE_ON_ERROR:
PYTHON ?= python3
PROFILE ?= micro
VENV := .venv
# A GPU set-up stays one until `make clean`.
GPU ?= $(if $(wildcard $(VENV)/.installed-1-*),1,0)
RUN := $(VENV)/bin/python
PINS := requirements.txt $(if $(filter 1,$(GPU)),requirements-gpu.txt)
STAMP := $(VENV)/.installed-$(GPU)-$(shell cat $(PINS) | sha256sum | cut -c1-16)

.PHONY: help setup reproduce test lab micro-model bench clean
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  variables: PROFILE=micro (a name in params/), GPU=1 (CUDA builds and vLLM), PYTHON=python3"

setup: $(STAMP) ## prepare .venv from requirements.txt, if it changed (GPU=1: CUDA builds and vLLM)

# PyTorch's plain package on Linux brings gigabytes of CUDA libraries; a machine without a GPU takes the CPU build, unless
# pip was told where to look (an index, or a folder of wheels).
$(STAMP): $(PINS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11; name another: make PYTHON=python3.12"; exit 2; }
	@if ls $(VENV)/.installed-$(if $(filter 1,$(GPU)),0,1)-* > /dev/null 2>&1; then rm -rf $(VENV); fi
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@source=; config="$$($(RUN) -m pip config list)"; \
	if [ "$(GPU)" != 1 ] && [ "$$(uname -s)" = Linux ] && ! grep -qE "index-url|find-links" <<< "$$config"; then \
	  source="--extra-index-url https://download.pytorch.org/whl/cpu"; pin="torch==$$(sed -n 's/^torch==//p' requirements.txt)+cpu"; \
	else pin="$$(grep ^torch== requirements.txt)"; fi; \
	echo "setting up $(VENV) (once; a few minutes)"; \
	$(RUN) -m pip install -q --disable-pip-version-check $$source "$$pin" && \
	$(RUN) -m pip install -q --disable-pip-version-check $(foreach pins,$(PINS),-r $(pins))
	@rm -f $(VENV)/.installed-*; touch $@

reproduce: setup ## run all notebooks of PROFILE and write results/PROFILE
	@$(RUN) -m dits_lib.reproduce --profile $(PROFILE)

test: setup ## the whole test suite
	@$(RUN) -m pytest

lab: setup ## open the notebooks in JupyterLab
	@$(RUN) -m jupyterlab --LabApp.default_url=/lab/tree/notebooks/01_rollout.ipynb

micro-model: setup ## train the micro base model from scratch, check its gates, release it (15 minutes)
	@$(RUN) -m dits_lib.micro_release

bench: setup ## speed and memory, as ratios measured in one run
	@$(RUN) -m benchmarks.run

clean: ## remove the environment and all computed stages (results/ stays)
	rm -rf $(VENV) runs .pytest_cache
