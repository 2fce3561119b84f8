# The Knowledge Neuron Workbook. Two commands do everything: `make figures` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0

# Parameters of `make figures`: MODEL=... LANGUAGES=en,de NOTEBOOK=01 and any other notebook parameter in capitals.
RESERVED := PYTHON VENV BIN TORCH NBVAL JOBS WORKERS RESERVED PARAMETERS SHELL MAKEFLAGS MAKEOVERRIDES MFLAGS GNUMAKEFLAGS
PARAMETERS = $(foreach v,$(.VARIABLES),$(if $(filter command line,$(origin $(v))),$(if $(filter $(RESERVED),$(v)),,$(v)='$($(v))')))

# Cells tagged nbval-check-output are compared with their kept outputs, the others only run.
NBVAL = --nbval-lax --nbval-current-env --nbval-cell-timeout 1200 --nbval-sanitize-with tests/nbval.cfg
# Notebooks, or files of tests, side by side: one process per core. JOBS=1 where they would share a GPU.
JOBS ?= 2
# In the given order, because notebooks take longest.
WORKERS = -n $(JOBS) --dist loadfile --no-loadscope-reorder

.PHONY: help install figures test lab grid scoreboard letters truth models planted facts constraints clean

help:  ## what there is to do
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

install: $(VENV)/installed  ## make .venv and install everything into it

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet uv
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

figures: install  ## run the notebooks, write figures/: MODEL=... LANGUAGES=en,de NOTEBOOK=01
	$(BIN)/python -m knlib.notebook run JOBS=$(JOBS) $(PARAMETERS)

test: install  ## ruff, pytest and nbval on two cores: JOBS=8 for more
	$(BIN)/ruff check knlib atlas tests
	$(BIN)/ruff format --check knlib atlas tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(WORKERS) $(NBVAL) notebooks/[0-9]*.ipynb tests

lab: install  ## JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir notebooks

grid: install  ## run the cells of the Query Localization study that have no result: CELL=D3 for one
	$(BIN)/python -m knlib.query_localization.grid --jobs $(JOBS) $(CELL)

scoreboard: install  ## run the editors of the scoreboard that have no result: ARM=rome for one
	$(BIN)/python -m knlib.scoreboard.grid --jobs $(JOBS) $(ARM)

letters: install  ## run the localizers of query-relevant neurons that have no result
	$(BIN)/python -m knlib.query_relevant.scoreboard --model atlas-llama-choice --jobs $(JOBS)

truth: install  ## score every localizer against planted neurons where there is no result
	for name in planted-llama planted-bert; do \
	  $(BIN)/python -m knlib.ground_truth.scoreboard --model $$name --jobs $(JOBS) || exit 1; done

models: install  ## train the Atlas models again (hours on a CPU, resumable), then measure and ship them
	$(BIN)/python -m atlas.build_templates
	for name in atlas-llama-facts atlas-llama atlas-gpt2-facts atlas-gpt2 \
	  atlas-bert-first atlas-bert-second atlas-bert \
	  atlas-llama-choice-drills atlas-llama-choice-labels atlas-llama-choice-letters \
	  atlas-llama-choice-second atlas-llama-choice; do \
	  $(BIN)/python -m atlas.train $$name || exit 1; done
	for name in atlas-llama atlas-gpt2 atlas-bert atlas-llama-choice; do $(BIN)/python -m atlas.ship $$name || exit 1; done

planted: install  ## plant facts in two models again (two hours, resumable), verify them and ship the models
	$(BIN)/python -m atlas.plant planted-llama --base atlas-llama
	$(BIN)/python -m atlas.plant planted-bert-first --base atlas-bert
	$(BIN)/python -m atlas.plant planted-bert --base atlas-bert --begin planted-bert-first --lr 0.003 --down-lr 0.01 --steps 3000
	for name in planted-llama planted-bert; do $(BIN)/python -m atlas.ship_planted $$name || exit 1; done

constraints: install  ## pin the newest versions that work together
	$(BIN)/uv pip compile --quiet --upgrade pyproject.toml --extra dev --no-header --no-annotate \
	  --no-emit-package torch | grep -v -E '^(cuda-|nvidia-|triton)' > constraints.txt

clean:  ## remove .venv and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache build *.egg-info
