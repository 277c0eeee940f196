# `make demo` runs the main job on embedded data, `make test` passes the tests; both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := build/demo

# Some containers set it; each of many processes would then compile the modules of torch for itself.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test fast-test lint perf benchmarks clean

# Fewer steps than any track has, so that it takes minutes: what the field is about, not a figure to cite.
demo: $(VENV)/installed
	$(BIN)/python -m harness run --scale smoke --protocol dc-cpu --dataset fashion-mini --ipc 1,10 --evals 1 \
	    --methods random,random_packed,dm,idm,bacon --set '*.iterations=40' --results $(DEMO)
	$(BIN)/python -m harness show $(DEMO)/smoke/fashion-mini/*/ipc1/*.safetensors -o $(DEMO)/sets.png
	@echo "The sets of one image per class, side by side: $(DEMO)/sets.png"

# Three processes on two cores, since the tests of Slurm mostly wait, and of one thread each, so as not to
# fight. Files are begun in order: those with slow tests first (tests/slow_tests.py).
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --benchmark-disable --durations=15
BESIDE := --numprocesses=3 --dist=loadfile --no-loadscope-reorder
# One shape of each kind: the others go through the same code; `perf check` alone times them all.
GATED := network,pool,evaluation,prepare-*-10,distance-*-10,descend-*-10-10
test: lint
	$(PYTEST) $(BESIDE) -m "not alone" --fidelity-check=harness/report/data/fidelity.json
	$(PYTEST) -m alone
	$(BIN)/python -m harness report --check
	$(BIN)/python -m harness perf check --cases '$(GATED)'

# Meant to answer within two minutes; says at its end what it left out.
fast-test: $(VENV)/installed
	$(PYTEST) $(BESIDE) -m "not slow"

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

perf: $(VENV)/installed
	$(BIN)/python -m harness perf step

# The records behind BENCHMARKS.md; needs the datasets, see README. Goes on where it stopped.
FLOOR := random,herding,kcenter,dm,idm,bacon
FIELD := random_packed,kmeans,forgetting,dc,dsa,dcc,dcc@dsa,cafe,cafe@dsa,mtt,tesla,idc,dream,datadam,datadam@paper
FIELD := $(FIELD),iid_dm,iid_idm,m3d,ncfm,ncfm@sampler,dm+bacon
RUN := $(BIN)/python -m harness run --scale cpu --ipc 1,10
benchmarks: $(VENV)/installed
	$(RUN) --methods $(FLOOR),whole --dataset digits
	$(RUN) --methods $(FLOOR) --dataset fashionmnist,folder:cifar10-jpeg
	$(RUN) --methods $(FIELD) --dataset fashionmnist,folder:cifar10-jpeg
	$(BIN)/python -m harness report

# Not compiled: that takes a minute for all of them, and Python does it for those that are used.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build
