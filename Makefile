# Every target builds .venv first when it is missing or older than what it is made from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
KILLS ?= 50
WORKERS ?= 3

.PHONY: quickstart test lint bench chaos clean

quickstart: $(STAMP)
	$(BIN)/prunesweep run sweeps/quickstart.yaml

test: lint
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# The page's files are one script, in one scope: as that they are linted.
lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p build
	$(BIN)/python -c "from orchestrator.results import page; print(page._page_script())" > build/page.js
	$(BIN)/oxlint build/page.js
	$(BIN)/lint-imports
	$(BIN)/pyright

bench: $(STAMP)
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/planning.py
	$(BIN)/python benchmarks/report.py

chaos: $(STAMP)
	$(BIN)/python tests/chaos/chaos.py --kills $(KILLS) $(if $(SEED),--seed $(SEED))

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]" --constraint constraints.txt
	touch $(STAMP)

clean:
	rm -rf $(VENV)
