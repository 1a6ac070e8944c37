# make demo        see it work, on synthetic ratings
# make test        everything that CI checks; FASTCOLLAB_DATA=DIR adds the tests on real data
# make test-fast   the tests without notebooks, a browser and what is marked slow: for the minutes between two commits
# make attack      2,000 odd calls at the public doors: how many are right, refused clearly, or neither
# make docs        the site, in _docs
PY   ?= python3
VENV := .venv
BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt

ifdef FASTCOLLAB_DATA
export FASTCOLLAB_DATA := $(abspath $(FASTCOLLAB_DATA))
endif
export MPLBACKEND ?= agg
export NO_MKDOCS_2_WARNING := 1
# batches are small: threads that wait for each other cost more than they help
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-fast attack sync style nbtest pytest readme docs docs-serve clean

demo: $(VENV)/.run
	$(BIN)/fastcollab demo --out demo

test: sync style nbtest pytest

test-fast: $(VENV)/.dev
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow and not browser'

# modules equal an export of the notebooks, notebooks are clean, README.md equals its notebook, and Quarto's list has
# them all: compared in a copy, so nothing here changes
sync: $(VENV)/.dev
	@echo '== notebooks, modules and README.md in sync'
	@tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && bin=$$PWD/$(BIN) && \
	  cp -R nbs fastcollab tools pyproject.toml README.md "$$tmp" && (cd "$$tmp" && \
	    "$$bin/nbdev-export" && "$$bin/nbdev-clean" && "$$bin/nbdev-sidebar" && "$$bin/python" tools/readme.py) && \
	  for o in nbs fastcollab README.md; do diff -r -x __pycache__ -x .ipynb_checkpoints $$o "$$tmp/$$o" || \
	    { echo 'out of sync: run nbdev-export, nbdev-clean, nbdev-sidebar and python tools/readme.py, and commit what they change'; exit 1; }; done

style: $(VENV)/.dev
	@echo '== chkstyle'
	@$(BIN)/chkstyle nbs fastcollab tests benchmarks tools

nbtest: $(VENV)/.dev
	@echo '== notebooks'
	@$(BIN)/nbdev-test --n-workers 2 --timing

# tests/repo/test_site.py builds the site, checks its links and looks at it in Chromium
pytest: $(VENV)/.dev $(VENV)/.docs
	@echo '== tests'
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=25

attack: $(VENV)/.dev
	@$(BIN)/python tests/attacks/run.py

readme: $(VENV)/.dev
	$(BIN)/python tools/readme.py

# the site made from the notebooks, without Quarto; if links inside it lead nowhere, it lists them and fails
docs: $(VENV)/.docs
	@echo '== the site, in _docs'
	@$(BIN)/python -m mkdocs build -q
	@$(BIN)/python tools/links.py

docs-serve: $(VENV)/.docs
	@$(BIN)/python -m mkdocs serve --no-strict

clean:
	rm -rf $(VENV) demo _proc _docs

$(VENV)/.run: pyproject.toml constraints.txt
	@$(PY) -c 'import sys; sys.exit(sys.version_info<(3,10) and "Python 3.10 or later is needed; name it as in: make PY=python3.11 demo")'
	@echo '== set-up: a virtual environment in $(VENV) (once)'
	@test -x $(BIN)/python || $(PY) -m venv $(VENV)
	@$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo '== set-up: tools for the tests (once)'
	@$(PIP) -e '.[dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.run
	@echo '== set-up: tools for the site (once)'
	@$(PIP) -e '.[docs]'
	@touch $@
