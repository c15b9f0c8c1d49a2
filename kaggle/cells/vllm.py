# Added by kaggle/prepare.py. vLLM from the attached wheelhouse; without it, Transformers.
try:
    install("vllm", minutes=30)  # noqa: F821  # as the cell before does
except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # noqa: F821
    print(f"No vLLM, so the Transformers engine has to do: {error}")
