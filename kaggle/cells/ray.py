# Added by kaggle/prepare.py. Several GPUs are used through Ray; without it, one of them.
try:
    install("ray", minutes=10)  # noqa: F821  # as the cell before does
except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # noqa: F821
    print(f"No Ray, so one GPU has to do: {error}")
