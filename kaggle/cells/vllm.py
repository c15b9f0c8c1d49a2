# Added by kaggle/prepare.py. vLLM from the attached wheelhouse.
without = "No vLLM, so the Transformers engine has to do"
try_install("vllm", minutes=30, without=without)  # noqa: F821  # of the cell before
