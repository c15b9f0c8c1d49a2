"""The clock of a Kaggle notebook: its time limit, counted from the start of its kernel."""

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path


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
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"the limit must be above 0 seconds, and finite, got {self.seconds}")
        if self.start is None:
            object.__setattr__(self, "start", process_start())
        if not math.isfinite(self.start):
            raise ValueError(f"start must be a moment in seconds, got {self.start}")

    @property
    def seconds_left(self) -> float:
        """The time until the limit; negative behind it."""
        return self.at(1.0) - time.time()

    def at(self, share: float = 1.0, *, reserve: float = 0.0) -> float:
        """Return the moment (``time.time()``) when a share of the limit is used, less a reserve.

        >>> Deadline(100.0, start=1000.0).at(0.5, reserve=10.0)
        1040.0
        """
        return self.start + share * self.seconds - reserve


def process_start() -> float:
    """Return when this process was started (``time.time()``); now, where Linux's /proc is not."""
    now = time.time()
    try:
        # The name in the second field may hold anything, but no ")" comes after it.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        age = uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return now
    return now - max(0.0, age)
