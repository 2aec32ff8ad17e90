# Everything a checkout needs, one word each. Each target sets up what it lacks, also the second time.
PYTHON ?= python3
TORCH  ?= cpu
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready

.PHONY: demo test check lab site bench studies gallery clean setup

# TORCH=cpu: as pinned; cuda: whatever build the package index gives; present: the torch of the surrounding Python
ifeq ($(TORCH),present)
  VENVFLAGS := --system-site-packages
endif
CONSTRAINTS := $(if $(filter cpu,$(TORCH)),constraints.txt,$(VENV)/constraints.txt)

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info<(3,11) and 'xstilts needs Python 3.11 or newer, this is '+sys.version.split()[0])"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENVFLAGS) $(VENV)
	grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c $(CONSTRAINTS) -e '.[site,dev]'
	touch $(STAMP)

# The embedded study: train, score, report, site
demo: setup
	$(BIN)/xstilts run demo
	$(BIN)/xstilts publish

# Library notebooks, then repository checks, end to end and faults
test: setup
	cd nbs && OMP_NUM_THREADS=1 ../$(BIN)/nbdev-test --skip-folder-re '^(templates|studies|tours|bench)$$' --n-workers 2
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests

# Before a commit: export, clean, test
check: setup
	$(BIN)/nbdev-export
	$(BIN)/nbdev-clean
	$(BIN)/ruff check nbs tests
	$(MAKE) test

lab: setup
	$(BIN)/python -m pip install -q --disable-pip-version-check -c $(CONSTRAINTS) -e '.[lab]'
	$(BIN)/jupyter lab nbs

site: setup
	$(BIN)/xstilts publish

# Speed beside what users would run instead: SIZES mini small base on a processor, large on a GPU (DEVICE=cuda). Rows go to reports/benchmarks, the notebooks to artifacts.
SIZES   ?= mini small base
DEVICE  ?= cpu
THREADS ?= 2
BENCH_mini  := -p batches 30 -p rows 16 -p repeats 3 -p candidates "1000x1000 20000x40000" -p dim 0 -p seeds 3 -p growth 4
BENCH_small := -p batches 10 -p rows 8 -p repeats 3 -p candidates "1000x1000 20000x40000" -p dim 0 -p seeds 0 -p growth 0
BENCH_base  := -p batches 4 -p rows 8 -p repeats 3 -p candidates "1000x1000 20000x40000" -p dim 0 -p seeds 0 -p growth 0
BENCH_large := -p batches 25 -p rows 64 -p repeats 5 -p candidates "1000x1000 20000x40000 200000x400000" -p dim 0 -p compiled True -p seeds 0 -p growth 4
bench: setup
	$(BIN)/python -m pip install -q --disable-pip-version-check -c $(CONSTRAINTS) -e '.[bench]'
	mkdir -p artifacts/benchmarks
	$(foreach s,$(SIZES),OMP_NUM_THREADS=$(THREADS) $(BIN)/papermill --cwd . nbs/bench/90_benchmark.ipynb artifacts/benchmarks/$(s).ipynb \
	  -p size $(s) -p device $(DEVICE) -p threads $(THREADS) -p folder reports/benchmarks $(BENCH_$(s)) &&) true

# Every study of params/
studies: setup
	for f in params/*.yaml; do case $$f in params/models.yaml) ;; *) $(BIN)/xstilts run $$f || exit 1;; esac; done
	$(BIN)/xstilts publish

# Rendered notebooks of the demo for readers on a code host
GALLERY := study.ipynb=report.ipynb experiment.ipynb=experiments/score-mini-squad-v1-udpos-s0-*.ipynb \
  stage.ipynb=stages/target-mini-udpos-after-squad-v1-s0-s0-*.ipynb
gallery: setup
	$(BIN)/xstilts run demo
	$(foreach o,$(GALLERY),cp reports/demo/$(word 2,$(subst =, ,$(o))) reports/gallery/$(word 1,$(subst =, ,$(o))) &&) true
	$(BIN)/nbdev-clean --fname reports/gallery

clean:
	rm -rf $(VENV) artifacts reports/site build dist *.egg-info
