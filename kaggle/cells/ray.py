# Added by kaggle/prepare.py. Several GPUs are used through Ray.
try_install("ray", minutes=10, without="No Ray, so one GPU has to do")  # noqa: F821
