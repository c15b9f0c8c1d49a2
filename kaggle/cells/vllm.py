# Added by kaggle/prepare.py. vLLM from the attached wheelhouse.
without = "No vLLM: using the Transformers engine"
try_install("vllm", minutes=30, without=without)  # noqa: F821  # from the cell before
