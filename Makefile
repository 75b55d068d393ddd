# `make help` lists the targets. Everything runs in .venv, which the first target that needs it makes.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

NOTEBOOKS := $(sort $(shell find notebooks -name '*.ipynb' -not -path '*/.*' 2>/dev/null))
# Notebooks that only report: what they print must equal their stored outputs.
STRICT_NOTEBOOKS := $(addprefix notebooks/,$(addsuffix .ipynb,table2 learner embedding_ablation as_released model_size \
    communication frontier gallery))
LAX_NOTEBOOKS := $(filter-out $(STRICT_NOTEBOOKS),$(NOTEBOOKS))
NBVAL := $(BIN)/python -m pytest --nbval-kernel-name python3 --nbval-cell-timeout 900 --nbval-kernel-startup-timeout 300

# A kernel named python3 in the user's home must not win over the one in .venv.
export JUPYTER_PREFER_ENV_PATH := 1

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# --- environment -----------------------------------------------------------------------------------

# The stamp holds the folder it was made in: a .venv that was moved or lost its Python is made anew.
ifneq ($(shell cat $(STAMP) 2>/dev/null && $(BIN)/python -c '' 2>/dev/null && echo ok),$(CURDIR) ok)
.PHONY: $(STAMP)
endif

# True if no package in .venv lacks a file, as one does after an interrupted installation.
define IS_WHOLE
import importlib.metadata, sys
packages = [d for d in importlib.metadata.distributions() if d.metadata["Name"] != "dynagent"]
sys.exit(not all(d.files and all(f.locate().exists() for f in d.files) for d in packages))
endef
export IS_WHOLE

.PHONY: install
install: $(STAMP) ## make .venv with the locked packages (PYTHON=python3.12 chooses the Python)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "dynagent needs Python 3.11 or newer, and '$(PYTHON)' is not one:" \
	         "$$($(PYTHON) --version 2>&1 | tail -n 1). Name another: make install PYTHON=python3.11" >&2; exit 1; }
	@[ ! -L .venv ] || { echo ".venv is a link to an environment of another folder: remove the link." >&2; exit 1; }
	@made_in=$$(cat $@ 2>/dev/null || echo "$(CURDIR)"); rm -f $@; \
	if [ "$$made_in" != "$(CURDIR)" ] || ! $(BIN)/python -I -c "$$IS_WHOLE" 2>/dev/null \
	    || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	    echo "Making .venv with $$($(PYTHON) --version)."; \
	    base=$$($(PYTHON) -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))'); \
	    "$$base" -m venv --clear .venv || { rm -rf .venv; \
	        echo "'$$base -m venv' failed: see above (on Debian and Ubuntu, install python3-venv)." >&2; exit 1; }; \
	fi
	@echo "Installing $$(grep -c '^[a-z].*==' requirements.lock) locked packages (from nothing: 2 to 10 minutes; a CUDA build of torch is several GB)."
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.lock
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -m pip check -q
	@echo "$(CURDIR)" > $@

.PHONY: lock
lock: install ## remake requirements.lock from pyproject.toml (ARGS=--upgrade for newer versions)
	cp requirements.lock .venv/lock
	$(BIN)/pip-compile --quiet --all-extras --strip-extras --allow-unsafe --no-header --no-emit-options \
	    --no-emit-index-url --annotation-style=line $(ARGS) --output-file .venv/lock pyproject.toml
	@# Keep the comment at the top; a local build of torch and what comes with one are no part of the lock.
	{ sed -n '/^#/!q; p' requirements.lock; echo; sed -E -e '/^(dynagent |nvidia-|cuda-|triton==|#|$$)/d' \
	    -e 's/^([^ ]+)\+[^ ]+/\1/' -e 's/dynagent, dynagent \(pyproject.toml\)|dynagent \(pyproject.toml\)/dynagent/' \
	    -e 's/ +#/  #/' .venv/lock; } > .venv/lock.new
	mv .venv/lock.new requirements.lock

# --- work ------------------------------------------------------------------------------------------

.PHONY: train
train: install ## train on MMLU in notebooks/train.ipynb (ARGS="-p num_iterations 50" sets parameters)
	@mkdir -p results/executed
	$(BIN)/papermill --cwd notebooks notebooks/train.ipynb results/executed/train.ipynb -p dataset mmlu $(ARGS)
	@$(BIN)/python -m dynagent summary results/executed/train.ipynb

.PHONY: record
record: install ## record a language model's answers for replay (ARGS="--cmmlu FOLDER" adds CMMLU; hours on two cores)
	$(BIN)/python -m studies.recordings.record $(ARGS)

# The workflow: pytask makes what is stale, and nothing else. See studies/README.md. ARGS goes to pytask: ARGS="-k paper"
# chooses by name. A study of one record spreads its seeds over two processes (-n 1); of several, its records.
PYTASK := $(BIN)/python -m pytask build

.PHONY: stale
stale: install ## which records, figures and tables no longer follow from code and inputs (status 1 if any)
	@$(BIN)/python -m studies.common.stale

.PHONY: studies
studies: install ## make all records, the ledger and the figures that are stale (hours if all are; resumable)
	$(PYTASK) $(ARGS)

.PHONY: accept-records
accept-records: install ## DECLARE all present products as made by the present code: only after numbers were compared
	$(BIN)/python -m studies.common.accept $(ARGS)

.PHONY: learner
learner: install ## what every recipe learns in the known-answer worlds, and its figures (half an hour)
	$(PYTASK) -m worlds -n 1 $(ARGS)

.PHONY: experiments
experiments: install ## the cells of Table 2 from recorded answers, 20 seeds each, and their figures (half an hour)
	$(PYTASK) -m table2 $(ARGS)

.PHONY: crosswords
crosswords: install ## static and dynamic policies in the simulated crosswords world (10 minutes)
	$(PYTASK) -m crosswords -n 1 $(ARGS)

.PHONY: record-crosswords
record-crosswords: install ## a language model's replies to the 20 crosswords under fixed graphs (an hour on two idle cores; resumable)
	$(BIN)/python -m studies.crosswords.answers $(ARGS)

.PHONY: ablations
ablations: install ## what drives the paper's numbers: results/ablations (half an hour)
	$(PYTASK) -m "readings or released" $(ARGS)

.PHONY: read
read: install ## let other and untrained edge LLMs read the questions (ARGS="--cmmlu FOLDER"; an hour on two cores)
	$(BIN)/python -m studies.readings.edge_llms $(ARGS)

.PHONY: claims
claims: install ## the ledger of the paper's claims, from the records: results/claims.json and claims.md
	$(PYTASK) -m ledger $(ARGS)

.PHONY: communication
communication: install ## what edges between agents earn, in a world and on record (ten minutes)
	$(PYTASK) -m communication -n 1 $(ARGS)

.PHONY: record-communication
record-communication: install ## record agents that read each other, for `make communication` (an hour on two cores; resumable)
	$(BIN)/python -m studies.communication.recording $(ARGS)

.PHONY: frontier
frontier: install ## accuracy against tokens (ten minutes)
	$(PYTASK) -m frontier -n 1 $(ARGS)

.PHONY: figures
figures: install ## all figures of the studies: results/figures (ARGS="-k adversaries")
	$(PYTASK) -m figure $(ARGS)

.PHONY: idea
idea: install ## what a trained policy makes of two real questions, and figure 1 (a minute)
	$(PYTASK) -m idea -n 1 $(ARGS)

.PHONY: site
site: install ## the documentation, all notebooks and the API as pages to browse, without a network: build/site/index.html
	$(BIN)/sphinx-build -q -W --keep-going -c docs -b html -d build/doctrees . build/site $(ARGS)
	@echo "Open build/site/index.html in a browser."

.PHONY: notebooks
notebooks: install ## execute the notebooks in place, with their default parameters, as they are committed
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --log-level=WARN $(NOTEBOOKS)

.PHONY: lab
lab: install ## open JupyterLab
	$(BIN)/jupyter lab $(ARGS)

# --- checks ----------------------------------------------------------------------------------------

.PHONY: test
test: lint ## lint, types, the fast tests, and every notebook
	$(BIN)/python -m pytest
	$(if $(LAX_NOTEBOOKS),$(NBVAL) --nbval-lax $(LAX_NOTEBOOKS))
	$(if $(STRICT_NOTEBOOKS),$(NBVAL) --nbval $(STRICT_NOTEBOOKS))

.PHONY: test-slow
test-slow: install ## the tests that take minutes
	$(BIN)/python -m pytest -m "slow and not soak" --durations=10

.PHONY: soak
soak: install ## twenty kills of each kind of run, and 2,000 iterations watched (a quarter of an hour)
	DYNAGENT_KILLS=20 $(BIN)/python -m pytest -m slow tests/test_kill.py --durations=10
	$(BIN)/python -m pytest --hypothesis-profile=soak -k fuzzed --durations=10

.PHONY: test-browser
test-browser: install ## the notebooks in JupyterLab in a headless browser (installs Playwright, and as root on Debian Chromium)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --target .venv/browser playwright==1.65.2 2>/dev/null \
	    || echo "Playwright could not be installed: the tests will be skipped."
	@command -v chromium chromium-browser google-chrome google-chrome-stable >/dev/null || { [ "$$(id -u)" = 0 ] \
	    && command -v apt-get >/dev/null && apt-get install -qq -y chromium >/dev/null; } \
	    || echo "No browser, and none could be installed: the tests will be skipped. Install Chromium or Chrome."
	PYTHONPATH=.venv/browser $(BIN)/python -m pytest tests/test_browser.py -m browser -rs --durations=5

.PHONY: audit
audit: install ## known vulnerabilities of the locked packages (needs the network; it reports and never fails)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --target .venv/audit pip-audit \
	    && PYTHONPATH=.venv/audit $(BIN)/python -m pip_audit --disable-pip --no-deps -r requirements.lock \
	    || echo "The audit found something, or could not be made: see above. Nothing is blocked by it."

.PHONY: bench
bench: install ## what a run costs beside its language models: results/bench.json (5 minutes; ARGS="--only drawing")
	$(BIN)/python -m studies.benchmarks.bench $(ARGS)

.PHONY: bench-parts
bench-parts: install ## time the parts of a run, with pytest-benchmark (a minute)
	$(BIN)/python -m pytest tests/studies/benchmarks --benchmark-enable --benchmark-only

.PHONY: bench-first-run
bench-first-run: install ## time and memory of these commands in a fresh clone with an empty home
	$(BIN)/python -m studies.benchmarks.first_run

.PHONY: bench-tuning
bench-tuning: install ## does training the edge LLM pay? head, LoRA and full compared (half an hour; ARGS="--num-train 80")
	$(BIN)/python -m studies.benchmarks.tuning $(ARGS)

.PHONY: bench-gpu
bench-gpu: install ## reading, scoring and training on a CUDA GPU: results/bench_gpu.json (ARGS="--smollm2 FOLDER" trains there)
	$(BIN)/python -m studies.benchmarks.bench_gpu $(ARGS)

.PHONY: lint
lint: install ## ruff (lint and format), import-linter and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

.PHONY: format
format: install ## format the code and the notebooks
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: clean
clean: ## remove caches, build leftovers and results/executed
	rm -rf build dist *.egg-info results/executed .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
	find . -path ./.venv -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## clean, and remove .venv
	rm -rf .venv
