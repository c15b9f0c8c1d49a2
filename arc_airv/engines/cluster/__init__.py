"""Many engines as one: workers on the GPUs of a machine or of a cluster, through Ray."""
