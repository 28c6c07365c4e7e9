PYTHON ?= python3
BIN := .venv/bin
TOOLS := .cache/tools/bin
PIP_QUIETLY := pip install --disable-pip-version-check --progress-bar off -q

.PHONY: help install demo tour test test-browser test-notebooks test-install faults test-all lint notebooks lab wheel lock \
    sbom audit docs clean
.DEFAULT_GOAL := help
export PYTHONDONTWRITEBYTECODE :=  # else each process of the tests compiles all that it imports

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/installed: pyproject.toml constraints.txt requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "reidlab needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/$(PIP_QUIETLY) --require-hashes --no-deps -r requirements.lock
	$(BIN)/$(PIP_QUIETLY) --no-build-isolation -c constraints.txt -e '.[all]'
	touch $@

install: .venv/installed  ## a virtual environment in .venv with everything

demo: install  ## draw people, train an OSNet, score it, to int8 and C, and write its card
	$(BIN)/reidlab run --all experiment=demo

tour: install  ## docs/tour.webp: what the stages print and draw, in pictures
	$(BIN)/python benchmarks/tour.py

test: install  ## the tests and the ten slowest; COVERAGE=1: and how many lines of reidlab/ they ran, in a fifth more time
	$(BIN)/pytest -n 2 --dist loadfile --durations=10 $(if $(COVERAGE),--cov --cov-report=) tests
	$(if $(COVERAGE),@echo "coverage: $$($(BIN)/coverage report --format=total) %")

test-browser: install  ## pages and notebooks as Chromium sees them
	$(BIN)/pytest -m browser tests

test-notebooks: install  ## the notebooks that `make test` leaves out, executed
	$(BIN)/pytest -m slow tests/test_notebooks.py

test-install: install  ## the wheel, built and installed without the clone
	$(BIN)/pytest -m slow tests/test_install.py

faults: install  ## kills, full disks and hostile files, ten minutes; writes the counts into docs/reliability.md
	FAULTS_TABLE=docs/reliability.md $(BIN)/pytest -n 2 --dist loadfile --durations=10 -m slow tests/faults

test-all: install  ## the tests, slow ones too
	$(BIN)/pytest -n 2 --dist loadfile -m '' tests

lint: install  ## ruff, check and format; mypy
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

notebooks: install  ## execute all notebooks into runs/notebooks
	$(BIN)/reidlab notebooks

lab: install  ## JupyterLab over the whole project, at the first notebook
	$(BIN)/jupyter lab --ServerApp.root_dir=$(CURDIR) --LabApp.default_url=/lab/tree/notebooks/00_quickstart.ipynb

docs: install  ## the pages of docs/, of commands, settings and docstrings as a site, in site/; any warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -q

wheel: install  ## the installable package, in dist/
	rm -rf build  # what an earlier build left there would travel along
	$(BIN)/pip wheel --disable-pip-version-check -q --no-deps --no-build-isolation -w dist .

.cache/tools/installed: Makefile
	$(PYTHON) -m venv .cache/tools
	$(TOOLS)/$(PIP_QUIETLY) uv==0.13.9 cyclonedx-bom==7.5.0 pip-audit==2.10.1
	touch $@

lock: .cache/tools/installed  ## the hashes of all that is installed, after a change of constraints.txt or triton/requirements.in
	$(TOOLS)/uv pip compile -q --generate-hashes --no-header --no-annotate --no-deps --no-emit-package torch \
	    constraints.txt -o requirements.lock
	cd reidlab/deploy/triton && $(CURDIR)/$(TOOLS)/uv pip compile -q --generate-hashes --no-header --no-annotate \
	    --universal requirements.in -o requirements.lock

sbom: install .cache/tools/installed  ## dist/sbom.json: what the environment holds, as CycloneDX
	mkdir -p dist
	$(TOOLS)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o dist/sbom.json $(BIN)/python

audit: .cache/tools/installed  ## known vulnerabilities of what requirements.lock names
	$(TOOLS)/pip-audit --disable-pip --require-hashes -r requirements.lock

clean:  ## remove the environment and caches; data and runs stay
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .coverage build dist site reidlab.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
