# Two commands are all a reader needs: make book, make test. Works with GNU make 3.81 (macOS) and newer.
# Options: PYTHON=python3.12  TORCH_INDEX=address  CHAPTERS="07_self_attention"  PORT=8000  CELL_TIMEOUT=seconds

SHELL := /bin/sh
VENV_PYTHON := .venv/bin/python
export PYTHON TORCH_INDEX PORT UPGRADE
# Where this is set, no module is kept compiled, and importing PyTorch keeps every new process busy for seconds.
unexport PYTHONDONTWRITEBYTECODE
unexport PYTHONPATH PYTHONHOME
# Where pip is told to install for the user, as on clusters and in Gitpod, it refuses to in a virtual environment.
export PIP_USER := 0
# Threads that wait for work soon sleep instead of spinning: on a machine shared with others, spinning made a small
# training five to ten times slower.
export GOMP_SPINCOUNT ?= 10000

.DEFAULT_GOAL := help
.PHONY: help setup book pdf serve results pilot bench gpu simclr test test-fast lint types unit chapters test-pages test-lowest notebooks normalize landing address format package lock clean clean-venv

help:  ## list what make can do here
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'

setup:  ## create .venv and install what requirements.lock pins
	@sh book/tools/setup.sh $(firstword $(MAKECMDGOALS))

book: setup  ## execute the chapters that changed, render the book, say where it is
	@$(VENV_PYTHON) -m book.tools.build $(if $(CELL_TIMEOUT),--timeout $(CELL_TIMEOUT))

pdf: setup  ## print the rendered book as one PDF, which its pages then offer (needs Chromium, and make book before)
	@$(VENV_PYTHON) -m book.tools.pdf

serve: setup  ## serve the rendered book and print its address (PORT=8000)
	@test -f _build/html/index.html || { echo "There is no book yet. Build it first: make book"; exit 1; }
	@$(VENV_PYTHON) -m http.server --bind $(if $(filter command,$(origin HOST)),$(HOST),127.0.0.1) --directory _build/html $(or $(PORT),8000) \
		|| { echo "Is the port taken? Choose another: make serve PORT=9000"; exit 1; }

results: setup  ## record chapters anew where their code has changed (CHAPTERS=, SLICE=seconds, JOBS=1, CHECK=1: only look)
	@$(VENV_PYTHON) -m book.tools.results $(if $(CHECK),--check) $(if $(SLICE),--slice $(SLICE)) $(CHAPTERS)

pilot: setup  ## show what a few runs of a chapter measure, and by how much claims hold (CHAPTERS=, RUNS=4)
	@$(VENV_PYTHON) -m book.tools.results --pilot $(or $(RUNS),4) $(CHAPTERS)

bench: setup  ## time the library beside others, for the page Performance (DEVICE=cpu, SLICE=seconds)
	@$(VENV_PYTHON) -m vlmcourse bench --device $(or $(DEVICE),cpu) $(if $(SLICE),--slice $(SLICE)) --output book/performance/$(or $(DEVICE),cpu).json

gpu: setup  ## try tests, chapters and benches on an NVIDIA GPU, into one folder of results (SLICE=seconds, JOBS=4, ONLY="words")
	@$(VENV_PYTHON) -m book.tools.gpu_check $(if $(SLICE),--slice $(SLICE)) $(if $(JOBS),--jobs $(JOBS)) $(if $(ONLY),--only $(ONLY))

simclr: setup  ## SimCLR on CIFAR-10 on a GPU: speed, accuracy against seconds, baselines (IMAGES=folder, SLICE=seconds)
	@VLMCOURSE_PROFILE=full $(VENV_PYTHON) -m book.experiments.simclr_cifar10 $(if $(IMAGES),--images $(IMAGES)) $(if $(SLICE),--slice $(SLICE))

test: setup  ## lint, types, tests with doctests, and every chapter under nbval
	@$(VENV_PYTHON) -m book.tools.check

test-fast: setup  ## lint, types and short tests, for people who work on the code
	@$(VENV_PYTHON) -m book.tools.check lint format types normalized fast-tests

lint: setup  ## only ruff, on code and notebooks
	@$(VENV_PYTHON) -m book.tools.check lint format

types: setup  ## only mypy
	@$(VENV_PYTHON) -m book.tools.check types

unit: setup  ## only pytest, with doctests
	@$(VENV_PYTHON) -m book.tools.check tests

chapters: setup  ## only nbval over the chapters
	@$(VENV_PYTHON) -m book.tools.check normalized chapters

test-pages: setup  ## the rendered pages in a real browser (needs Chromium, and make book before)
	@$(VENV_PYTHON) -m book.tools.check pages

test-lowest: setup  ## the library's tests with the lowest versions that pyproject.toml allows (PYTHON=python3.11)
	@sh book/tools/lowest.sh

notebooks: setup  ## execute the chapters in place, in the form in which they are committed (CHAPTERS=)
	@$(VENV_PYTHON) -m book.tools.refresh $(CHAPTERS)

normalize: setup  ## bring notebooks into their committed form without executing them
	@$(VENV_PYTHON) -m book.tools.normalize

landing: setup  ## draw the cards of the landing page anew
	@$(VENV_PYTHON) -m book.experiments.landing_cards

address: setup  ## write the repository's address into first cells and badges (VLMCOURSE_REPOSITORY=, CHECK=1: only look)
	@$(VENV_PYTHON) -m book.tools.address $(if $(CHECK),--check)

format: setup  ## let ruff format code and notebooks, and repair what it can
	@$(VENV_PYTHON) -m ruff check --fix --quiet vlmcourse tests book lectures || true
	@$(VENV_PYTHON) -m ruff format vlmcourse tests book lectures

package: setup  ## build the package into dist/ and check it (TAG=v0.1.0: that it is that version)
	@$(VENV_PYTHON) -m venv _build/packaging
	@_build/packaging/bin/python -m pip install --quiet build twine
	@rm -rf dist
	@_build/packaging/bin/python -m build
	@_build/packaging/bin/python -m twine check --strict dist/*
	@$(VENV_PYTHON) -m book.tools.package $(TAG)

lock: setup  ## pin what pyproject.toml asks for in requirements.lock (UPGRADE=1: the newest of all)
	@sh book/tools/lock.sh

clean:  ## remove everything that was built
	rm -rf _build .pytest_cache .ruff_cache .mypy_cache .hypothesis

clean-venv:  ## remove the virtual environment
	rm -rf .venv
