# Added by kaggle/prepare.py. Ray, to use several GPUs.
try_install("ray", minutes=10, without="No Ray: using one GPU")  # noqa: F821
