# Every target builds .venv first when it is missing or older than what it is made from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PACKAGE := $(VENV)/.package
OLDEST := .venv-oldest
KILLS ?= 50
WORKERS ?= 3

.PHONY: quickstart test test-long cluster-test test-oldest lint docs screenshots bench chaos reproduce clean

# Installs the package alone, without the tools of its development.
quickstart: $(PACKAGE)
	$(BIN)/prunesweep run quickstart

test: lint
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# What takes minutes of processor time, and `make test` leaves out.
test-long: $(STAMP)
	$(BIN)/python -m pytest --numprocesses 2 --dist load -m long

# Nodes, buckets, servers and job queues as processes on this machine: three quarters of an hour on two
# cores.
cluster-test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses 2 --dist load -m cluster

# With the lowest versions that pyproject.toml admits: keys, results, and what uses private parts of
# Ray and W&B. Python 3.11 has wheels of all of them (PYTHON=python3.11 where python3 is another). Two
# minutes to install, nine to test on two busy cores. Cyclopts 4 draws help in its own way.
test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest --numprocesses $(WORKERS) --dist loadfile \
		tests/test_golden.py --deselect tests/test_golden.py::test_the_help_of_every_command \
		tests/trainables/test_identity.py tests/trainables/test_data_files.py \
		tests/trainables/test_data_fuzz.py tests/orchestrator/test_scheduling.py \
		tests/orchestrator/test_clusters.py tests/orchestrator/test_ray_internals.py \
		tests/orchestrator/test_tracking.py \
		tests/orchestrator/test_open_results.py tests/orchestrator/test_statistics.py \
		tests/orchestrator/test_end_to_end.py::test_the_tables_are_complete

# The page's files are one script, in one scope: as that they are linted.
lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p build
	$(BIN)/python -c "from orchestrator.results import page; print(page._page_script())" > build/page.js
	$(BIN)/oxlint build/page.js
	$(BIN)/lint-imports
	$(BIN)/pyright

# The site of the documents, the commands' help and the public modules' docstrings; any link between
# them that leads nowhere ends it. To look at: build/site/docs/index.html.
docs: $(VENV)/.docs
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --conf-dir docs . build/site

# The pictures in the documents, of a real run of the quickstart; needs Chromium.
screenshots: $(STAMP)
	$(BIN)/python docs/screenshots.py

bench: $(STAMP)
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/planning.py
	$(BIN)/python benchmarks/start.py
	$(BIN)/python benchmarks/overheads.py
	$(BIN)/python benchmarks/report.py

chaos: $(STAMP)
	PYTHONPATH=tests/trainables $(BIN)/python tests/chaos/chaos.py --kills $(KILLS) \
		$(if $(SEED),--seed $(SEED)) $(if $(STORAGE),--storage $(STORAGE))

# A row of a published table, beside what is published: make reproduce TABLE="1 --dataset cifar10
# --model resnet20 --density 0.05". Hours on a GPU; --epochs makes it another, shorter experiment.
reproduce: $(STAMP)
	$(BIN)/python benchmarks/reproduce.py $(TABLE)

# What is kept of a whole environment serves the package alone too.
$(PACKAGE): pyproject.toml constraints.txt
	@echo "Installing prunesweep into $(VENV), with torch, Ray and what else it needs. By default torch"
	@echo "comes with CUDA, several GB; README.md says how to have the CPU's alone. Nothing is installed"
	@echo "outside of this folder."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --editable . --constraint constraints.txt
	touch $@

$(VENV)/.docs: $(PACKAGE)
	@echo "Installing Sphinx, with what builds the site, into $(VENV)."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[docs]" --constraint constraints.txt
	touch $@

$(STAMP): constraints.txt
$(OLDEST)/.installed: constraints-oldest.txt
%/.installed: pyproject.toml
	@echo "Installing prunesweep into $*, with torch, Ray and what else it needs, and the tools of its"
	@echo "development. By default torch comes with CUDA, several GB; README.md says how to have the CPU's alone."
	$(PYTHON) -m venv $*
	$*/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]" --constraint $(filter constraints%,$^)
	touch $@ $*/.package

clean:
	rm -rf $(VENV) $(OLDEST)
