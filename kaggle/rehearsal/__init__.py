"""A Kaggle kernel on a laptop: what `kaggle/rehearse.py` runs."""
