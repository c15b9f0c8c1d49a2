"""Fixtures of the tests of training."""

import pytest


@pytest.fixture(scope="module")
def one_thread():
    """Compute with one thread: on a busy machine, threads of small models wait for each other."""
    torch = pytest.importorskip("torch")
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)
