"""Play a Kaggle kernel on a laptop, for `kaggle/rehearse.py`."""
