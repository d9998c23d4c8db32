# `make` alone prints what each target does.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)
.DEFAULT_GOAL := help
.PHONY: help install demo test test-all test-plain test-browser export outputs docs slides lab slow bench course-times

help:                ## Print this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

$(STAMP): constraints.txt settings.ini setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt 'setuptools' 'wheel'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -c constraints.txt -e '.[dev]'
	touch $(STAMP)

install: $(STAMP)    ## Set up .venv with the pinned packages of constraints.txt

demo: $(STAMP)       ## Train on scikit-learn's digits, print AUROCs, write plots into demo/
	ganomaly_demo

PYTEST := OMP_NUM_THREADS=1 python -m pytest -q -n auto --dist worksteal tests --ignore=tests/browser

test: $(STAMP)       ## In sync and clean, the core notebooks (00 to 07, 9x), all quick tests
	$(PYTEST) -m 'not slow'

test-all: $(STAMP)   ## Everything that must hold, as in CI: lessons and result notebooks, too
	$(PYTEST)

PACKAGES ?= --upgrade
test-plain:          ## What `pip install .` gives, in .plain: the newest packages, or PACKAGES='-c constraints-lowest.txt'
	$(PYTHON) -m venv --clear .plain
	.plain/bin/python -m pip install --quiet --disable-pip-version-check $(PACKAGES) '.[widgets]' pytest
	.plain/bin/pytest -q tests --ignore=tests/browser

test-browser: $(STAMP) ## Open pages and widgets in a headless Chromium of the system
	python -m pytest -q tests/browser

export: $(STAMP)     ## Notebooks -> package, cleaned notebooks and README.md
	python docs/install_cells.py
	nbdev_export
	nbdev_clean
	python docs/readme.py

outputs: $(STAMP)    ## Run all notebooks and store their outputs
	python docs/execute.py

docs: $(STAMP)       ## Build the site into _docs/ from the notebooks, as they are stored
	python docs/website.py

slides: $(STAMP)     ## Make slides of the lessons in _slides/: they need no network, key S shows the speaker's notes
	python docs/slides.py

lab: $(STAMP)        ## Open JupyterLab on the home page, nbs/index.ipynb
	jupyter lab nbs/index.ipynb

slow: $(STAMP)       ## Also run the cells flagged slow, and cuda where there is a GPU (GANOMALY_DATA: the real images)
	nbdev_test --flags "slow $$(python -c 'import torch; print("cuda"*torch.cuda.is_available())')" --n_workers 1 --do_print

bench: $(STAMP)      ## Side-by-side timings as ratios, X-ray scans and large photographs a minute, answers of widgets, cost of a memory, scoring files
	python benchmarks/speed.py
	python benchmarks/xray.py
	python benchmarks/windows.py
	python benchmarks/widgets.py
	python benchmarks/memory.py
	python benchmarks/scoring_files.py

course-times: $(STAMP) ## How long the course's notebooks need on one thread, for the instructor's page
	python benchmarks/course.py
	python benchmarks/reading.py
