# make demo   see it work, on synthetic ratings
# make test   everything that CI checks; FASTCOLLAB_DATA=DIR adds the tests on real data
PY   ?= python3
VENV := .venv
BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt

ifdef FASTCOLLAB_DATA
export FASTCOLLAB_DATA := $(abspath $(FASTCOLLAB_DATA))
endif
export MPLBACKEND ?= agg
# batches are small: threads that wait for each other cost more than they help
export OMP_NUM_THREADS ?= 1

.PHONY: demo test sync style nbtest pytest readme clean

demo: $(VENV)/.run
	$(BIN)/fastcollab demo --out demo

test: sync style nbtest pytest

# modules equal an export of the notebooks, notebooks are clean, README.md equals its notebook: compared in a copy, so nothing here changes
sync: $(VENV)/.dev
	@echo '== notebooks, modules and README.md in sync'
	@tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && cp -R nbs fastcollab tools pyproject.toml README.md "$$tmp" && bin=$$PWD/$(BIN) && \
	  (cd "$$tmp" && "$$bin/nbdev-export" && "$$bin/nbdev-clean" && "$$bin/python" tools/readme.py) && \
	  for o in nbs fastcollab README.md; do diff -r -x __pycache__ -x .ipynb_checkpoints -x models $$o "$$tmp/$$o" || \
	    { echo 'out of sync: run nbdev-export, nbdev-clean and python tools/readme.py, and commit what they change'; exit 1; }; done

style: $(VENV)/.dev
	@echo '== chkstyle'
	@$(BIN)/chkstyle nbs fastcollab tests benchmarks tools

nbtest: $(VENV)/.dev
	@echo '== notebooks'
	@$(BIN)/nbdev-test --n-workers 2 --timing

pytest: $(VENV)/.dev
	@echo '== tests'
	@$(BIN)/python -m pytest

readme: $(VENV)/.dev
	$(BIN)/python tools/readme.py

clean:
	rm -rf $(VENV) demo

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
