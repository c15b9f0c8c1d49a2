"""The machine that a Kaggle notebook finds itself on: its inputs, its clock and its GPUs.

Input paths moved over the years, so they are searched for. Nothing here initializes CUDA: the
engines run in processes of their own, and this one stays clean of it. Each place that differs off
Kaggle is a parameter.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from arc_airv.gpus import Gpu, engine_options, find_gpus, gpus_for_model, require_gpus
from arc_airv.tasks import NAMED_SOURCES, Pair, Task, load_tasks, parse_task

__all__ = [
    "Challenges",
    "Deadline",
    "Gpu",
    "engine_options",
    "find_gpus",
    "find_input",
    "find_model",
    "gpus_for_model",
    "is_rerun",
    "process_start",
    "read_challenges",
    "require_gpus",
]

INPUT = Path("/kaggle/input")
LIMIT_HOURS = 12.0


def is_rerun(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is the scored rerun, which sees the hidden test file."""
    return bool(environment.get("KAGGLE_IS_COMPETITION_RERUN"))


# Inputs ------------------------------------------------------------------------------------------


def find_input(name: str, *, root: str | Path = INPUT) -> Path:
    """The one file or folder of a name (or glob pattern) anywhere under the inputs.

    Parameters
    ----------
    name : str
        Such as "arc-agi_test_challenges.json" or "arc_airv-*.whl".
    root : str or Path, default "/kaggle/input"

    Returns
    -------
    Path

    Raises
    ------
    FileNotFoundError
        If nothing has this name; the message lists what is attached.
    ValueError
        If several things have it; the message lists them.
    """
    return _the_one(_search(Path(root), name), name, Path(root))


def find_model(*, root: str | Path = INPUT) -> Path:
    """The one folder under the inputs that holds a model: a config.json beside safetensors.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is none, or several.
    """
    found = [path.parent for path in _search(Path(root), "config.json")]
    found = [folder for folder in found if any(folder.glob("*.safetensors"))]
    return _the_one(found, "model folder (config.json and *.safetensors)", Path(root))


def _search(root: Path, pattern: str) -> list[Path]:
    """All paths below a folder whose end matches; what links lead to, too, but once."""
    found, seen = [], set()
    for folder, folders, files in os.walk(root, followlinks=True):
        folders.sort()
        if (real := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(real)
        paths = [Path(folder, name) for name in (*folders, *files)]
        found += [path for path in paths if path.match(pattern)]
    return sorted({path.resolve(): path for path in reversed(found)}.values())


def _the_one(found: list[Path], what: str, root: Path) -> Path:
    if len(found) > 1:
        raise ValueError(f"{len(found)} times {what} under {root}: {', '.join(map(str, found))}")
    if not found:
        places = [f"{root} does not exist"]
        if root.is_dir():  # three levels: kind, owner, name
            folders = {p for depth in ("*", "*/*", "*/*/*") for p in root.glob(depth) if p.is_dir()}
            attached = [str(p) for p in sorted(folders)]
            places = [f"attached: {', '.join(attached[:20]) or 'nothing'}"]
        raise FileNotFoundError(f"no {what} under {root}; {places[0]}")
    return found[0]


@dataclass(frozen=True)
class Challenges:
    """A challenges file, of which some entries may be unusable.

    Attributes
    ----------
    tasks : dict of str to Task
        The well-formed ones: those that can be asked.
    all : dict of str to Task
        Every entry, in the order of the file: what a submission has to hold. A malformed one is a
        stand-in of as many test outputs as could be told.
    faults : dict of str to str
        What is wrong with each malformed entry.
    """

    tasks: dict[str, Task]
    all: dict[str, Task]
    faults: dict[str, str]


def read_challenges(source: str | Path) -> Challenges:
    """Read a challenges file; a malformed entry costs its own answers and no other's.

    Parameters
    ----------
    source : str or Path
        A Kaggle challenges JSON, or whatever else `arc_airv.tasks.load_tasks` reads (strictly).

    Raises
    ------
    ValueError
        If the file as a whole is not an object of tasks by id.
    """
    path = Path(source)
    if str(source) in NAMED_SOURCES or not path.is_file():
        tasks = load_tasks(source)
        return Challenges(tasks, tasks, {})
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must be an object of tasks by id")
    every, faults = {}, {}
    for task_id, entry in content.items():
        try:
            every[task_id] = parse_task(task_id, entry, path)
        except ValueError as error:
            faults[task_id] = str(error)
            pairs = entry.get("test") if isinstance(entry, dict) else None
            # An empty or missing list counts as one output: the most common number.
            n_outputs = len(pairs) if isinstance(pairs, list) and pairs else 1
            stand_in = Pair(np.zeros((1, 1), dtype=np.int8))
            every[task_id] = Task(task_id, train=(), test=(stand_in,) * n_outputs)
    tasks = {task_id: task for task_id, task in every.items() if task_id not in faults}
    return Challenges(tasks, every, faults)


# The clock ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Deadline:
    """The time limit of a notebook, counted from the start of its kernel.

    Parameters
    ----------
    seconds : float
        The limit.
    start : float, optional
        When it began to count (``time.time()``); by default when this process, the notebook's
        kernel, was started: what a cell has installed before this is made counts, too.
    """

    seconds: float
    start: float | None = None

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise ValueError(f"the limit must be above 0 seconds, got {self.seconds}")
        if self.start is None:
            object.__setattr__(self, "start", process_start())

    @property
    def seconds_left(self) -> float:
        """Until the limit; negative behind it."""
        return self.at(1.0) - time.time()

    @property
    def share(self) -> float:
        """How much of the limit is used: 0 at the start, 1 at the limit."""
        return (time.time() - self.start) / self.seconds

    def at(self, share: float = 1.0, *, reserve: float = 0.0) -> float:
        """The moment (``time.time()``) at which a share of the limit is used.

        Parameters
        ----------
        share : float, default 1
        reserve : float, default 0
            So many seconds earlier.

        Examples
        --------
        >>> Deadline(100.0, start=1000.0).at(0.5, reserve=10.0)
        1040.0
        """
        return self.start + share * self.seconds - reserve


def process_start() -> float:
    """When this process was started (``time.time()`` seconds); now, where Linux's /proc is not."""
    now = time.time()
    try:
        # The name in the second field may hold anything, but no ")" comes after it.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        age = uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return now
    return now - max(0.0, age)
