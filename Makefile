# Everything runs in .venv, which `make setup` makes once; the other targets call it.
#   make demo        the main job in miniature: recordings -> shards -> pretraining -> out-of-distribution report
#   make test        all tests            make test-fast   those that take seconds
#   make soak        the long fault tests at full counts
#   make lint        ruff and mypy        make bench       the benchmarks
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
PYTEST := $(BIN)/python -m pytest
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: setup demo test test-fast soak lint docs bench clean
setup: $(STAMP)

# DeepSpeed's build reads the torch that is there, so torch comes first and the build is not isolated. Of
# projectaria-tools only the VRS reader is used, which needs numpy alone, and not the notebooks that it asks for.
$(STAMP): setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) setuptools wheel ninja packaging psutil py-cpuinfo numpy torch
	DS_BUILD_OPS=0 $(PIP) --no-build-isolation -e '.[test,docs]'
	$(PIP) --no-deps projectaria-tools || echo 'no wheel of projectaria-tools here: VRS files are not read'
	touch $@

demo: setup
	$(BIN)/imuvid demo

test: setup
	$(PYTEST) -m 'not cluster' $(PARALLEL)
	$(PYTEST) -m cluster

test-fast: setup
	$(PYTEST) -m 'not slow and not cluster' -x $(PARALLEL)

soak: setup
	IMUVID_SOAK=1 $(PYTEST) -m 'slow or cluster'

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --clean

bench: setup
	$(BIN)/python -m benchmarks.render
	$(BIN)/python -m benchmarks.build_shards
	$(BIN)/python -m benchmarks.sync
	$(BIN)/python -m benchmarks.objectives --set-up
	$(BIN)/python -m benchmarks.stream --setup
	$(BIN)/python -m benchmarks.stream
	$(BIN)/python -m benchmarks.resume
	$(BIN)/python -m benchmarks.ood
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.sweep

clean:
	rm -rf $(VENV) build runs
