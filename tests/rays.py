"""A small Ray for tests: on loopback, without a dashboard, in a folder of the test."""

import contextlib
import os
import sys
import tempfile
from pathlib import Path

import pytest

OPTIONS = {"include_dashboard": False, "log_to_driver": False, "object_store_memory": 80 * 2**20}


def short_folder(tmp_path_factory):
    """Make a folder whose path leaves room for Ray's socket names (107 characters in all)."""
    folder = str(tmp_path_factory.mktemp("r"))
    return folder if len(folder) < 40 else tempfile.mkdtemp(prefix="r")


@contextlib.contextmanager
def surroundings(**variables):
    """Give Ray's processes the modules of the tests and some variables."""
    here = Path(__file__).parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(here), str(here.parent), *sys.path]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")  # ignore other processes on this machine
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@contextlib.contextmanager
def small_ray(tmp_path_factory, n_cpus=8):
    """Start a Ray in this process."""
    ray = pytest.importorskip("ray")
    with surroundings():
        ray.init(
            address="local",
            num_cpus=n_cpus,
            _node_ip_address="127.0.0.1",
            _temp_dir=short_folder(tmp_path_factory),
            **OPTIONS,
        )
        try:
            yield
        finally:
            ray.shutdown()


def processes_with(variable, value):
    """List the ids of all processes that inherited this variable, except zombies."""
    wanted, found = f"{variable}={value}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z" and wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:  # it has ended since
            continue
    return found
