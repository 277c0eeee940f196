# `make demo` runs the main job on embedded data, `make test` passes the tests; both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := build/demo

# Some containers set it; each of many processes would then compile the modules of torch for itself.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test beside gate fast-test lint perf benchmarks paper-scale ablations clean

# Fewer steps than any track has, so that it takes minutes: what the field is about, not a figure to cite.
demo: $(VENV)/installed
	$(BIN)/python -m harness run --scale smoke --protocol dc-cpu --dataset fashion-mini --ipc 1,10 --evals 1 \
	    --methods random,random_packed,dm,idm,bacon --set '*.iterations=40' --results $(DEMO)
	$(BIN)/python -m harness show $(DEMO)/smoke/fashion-mini/*/ipc1/*.safetensors -o $(DEMO)/sets.png
	@echo "The sets of one image per class, side by side: $(DEMO)/sets.png"

# Four processes on two cores, since the tests of Slurm mostly wait, and of one thread each, so as not to
# fight. Files are begun in order: those with slow tests first (tests/slow_tests.py).
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --benchmark-disable --durations=15
BESIDE := --numprocesses=4 --dist=loadfile --no-loadscope-reorder
test: $(VENV)/installed
	$(MAKE) --no-print-directory --jobs=2 lint beside
	$(BIN)/python -m harness report --check

beside: $(VENV)/compiled
	$(PYTEST) $(BESIDE) -m "not alone" --fidelity-check=harness/report/data/fidelity.json

# Whether this code is slower than earlier code: no test, since it needs a machine that does nothing else. One
# shape of each kind: the others go through the same code; `perf check` alone times them all. What tests the gate
# itself measures times as well.
GATED := network,pool,evaluation,prepare-*-10,distance-*-10,descend-*-10-10
gate: $(VENV)/installed
	$(PYTEST) -m alone $$(grep -rlF --include='*.py' mark.alone tests)
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

# The records of the cpu scale behind BENCHMARKS.md; needs the datasets, see README. Goes on where it stopped, and
# begins with what tells most. Sets are asked as their methods call for, and the floors as those methods are; those
# that call for a teacher or a training of their own also without it, beside the others.
HARD := random,random_packed,herding,kcenter,kmeans,forgetting,bacon,idm,dm,dm+bacon,m3d,iid_idm,iid_dm,dream,idc,ncfm
HARD := $(HARD),ncfm@sampler,datadam,datadam@paper,dc,dsa,dcc,dcc@dsa,cafe,cafe@dsa,mtt,tesla,ftd,dsdm,dance,tgdd,hdd
HARD := $(HARD),idm+hdd,dd
STORED := random@soft,herding@soft,datm,pad,ld,frepo,kip@vec
TAUGHT := rded,sre2l_pp,fadrm,cim,g_vbsm,sre2l,cda
# The first eight of ipc 10, cifar10-jpeg, and the floor. CIM, the first, cannot go to ipc 50 at this scale: it
# chooses the tiles of a class, 200 then, from a hundred images.
BEST := random,m3d,dsdm,tgdd,dance,bacon,iid_idm,idm,idc
RUN := $(BIN)/python -m harness run --scale cpu --seeds 5
benchmarks: $(VENV)/installed
	set -e; for ipc in 10 1; do for data in folder:cifar10-jpeg fashionmnist; do \
	    on="--ipc $$ipc --dataset $$data"; \
	    $(RUN) $$on --methods $(HARD); \
	    $(RUN) $$on --methods $(TAUGHT),dd,frepo,kip@vec --protocol dc-cpu; \
	    $(RUN) $$on --methods $(TAUGHT); \
	    $(RUN) $$on --methods random --protocol kd-cpu,kd-bssl-cpu,kd-mse-cpu,kd-mse-gt-cpu; \
	    $(RUN) $$on --methods $(STORED); \
	    $(RUN) $$on --methods random@soft --protocol datm-cpu,frepo-cpu; \
	done; done
	$(RUN) --ipc 10 --dataset folder:cifar10-jpeg --methods $(HARD),$(TAUGHT) --protocol dc-cpu --seeds 3 --budget 2T
	$(RUN) --ipc 50 --dataset folder:cifar10-jpeg,fashionmnist --methods $(BEST) --protocol dc-cpu --seeds 3
	$(RUN) --methods whole --evals 1 --ipc 1 --dataset fashionmnist,folder:cifar10-jpeg
	$(RUN) --methods random,herding,kcenter,dm,idm,bacon,whole --ipc 1,10 --seeds 2 --dataset digits
	$(BIN)/python -m harness report

# What a CPU reaches of the papers' own settings, in some five minutes a trial, and sets of digits under the
# augmentation that papers' figures of MNIST were obtained under.
PAPER := $(BIN)/python -m harness run --scale paper --methods random --ipc 1
paper-scale: $(VENV)/installed
	$(PAPER) --dataset mnist,fashionmnist
	$(PAPER) --dataset mnist --protocol dc-digits
	$(BIN)/python -m harness report

# What each of BACON's terms is worth, and the weight of its prior: beside its own settings, of `benchmarks`.
TERMS := tv_weight=0 tv_weight=0.2 tv_weight=0.4 tv_weight=0.6 tv_weight=1 clip_weight=0.2 ce_weight=0 \
    ce_weight=0,tv_weight=0
ablations: $(VENV)/installed
	set -e; for terms in $(TERMS); do \
	    $(RUN) --ipc 10 --dataset folder:cifar10-jpeg --methods bacon \
	        $$(echo $$terms | sed 's/^/--set bacon./; s/,/ --set bacon./g'); \
	done
	$(BIN)/python -m harness report

# Not compiled: that takes a minute for all of them, and Python does it for those that are used.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --editable ".[dev]"
	touch $@

# What the tests use: each of their processes would compile it for itself, since all begin at once.
$(VENV)/compiled: $(VENV)/installed
	$(BIN)/python -m pytest --collect-only -qq >$@ || { cat $@; rm $@; exit 1; }
	$(BIN)/python -c "import torch._inductor.compile_fx"

clean:
	rm -rf $(VENV) build
