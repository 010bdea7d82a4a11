# make help lists what there is. Everything runs in .venv, which is made on first use from requirements.txt.
PYTHONS = $(PYTHON) python3.11 python3.12 python3.13 python3
RUN = .venv/bin/python
PYTEST = $(RUN) -m pytest -q -n auto --maxprocesses 8 --dist loadfile
READY = .venv/.ready

.PHONY: help install demo test test-all lint fuzz benchmarks clean
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

install: $(READY) ## the environment alone, in .venv

demo: $(READY) ## make videos, train, evaluate and explain, in demo/ (minutes)
	$(RUN) -m util_scripts.demo

test: $(READY) ## all tests but the slow ones
	$(PYTEST) -m "not slow"

test-all: $(READY) ## all tests
	$(PYTEST)

lint: $(READY) ## ruff
	$(RUN) -m ruff check

fuzz: $(READY) ## try to break the program for BUDGET seconds (300), see docs/RELIABILITY.md; SEED=N begins at a seed
	$(RUN) -m benchmarks.fuzz.campaign --budget $(or $(BUDGET),300) $(if $(SEED),--seed $(SEED)) $(FUZZ)

benchmarks: $(READY) ## all benchmarks that need no data; adds a row to docs/results/all.csv
	$(RUN) -m benchmarks.all

clean: ## remove demo/ and caches; .venv/ and results/ stay
	rm -rf demo .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# The stamp is written last: an installation that was interrupted is gone through again. A working .venv is kept.
$(READY): requirements.txt
	@if ! $(RUN) -m pip --version >/dev/null 2>&1; then \
	  for python in $(PYTHONS); do \
	    if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then break; fi; \
	    python=; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo 'error: no Python 3.11, 3.12 or 3.13 here; install one, or name it: make PYTHON=/path/to/python3.12 ...' >&2; exit 2; \
	  fi; \
	  $$python -m venv --clear .venv || { echo "error: $$python cannot make .venv; on Debian and Ubuntu install python3-venv" >&2; exit 2; }; \
	fi
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@
