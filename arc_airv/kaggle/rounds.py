"""Rounds: as many predictions as the time allows, and the last ones where they matter.

A run begins with one view of every output, which tells the rate. Half of the time that is left goes
to the same number of views of every output, the rest to rounds that extend the outputs which are
not settled. Every round extends the plan, so a run that is started again goes on where it was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arc_airv.engines.base import Engine, Sampling
from arc_airv.infer.generate import ROUND, generate_predictions
from arc_airv.kaggle.settle import TOLERANCE, unsettled_outputs
from arc_airv.records import read_predictions
from arc_airv.tasks import Task, outputs_of

Output = tuple[str, int]

UNIFORM_SHARE = 0.5  # of the time left after the calibration, for the same number of every output
ROUND_SHARE = 1 / 3  # of the time left, for a round
SMALLEST_ROUND = 64  # prompts: fewer would leave an engine that batches idle


@dataclass(frozen=True)
class Round:
    """One round of a run.

    Attributes
    ----------
    kind : {"calibration", "uniform", "unsettled"}
    n_outputs : int
        Outputs that it asked further predictions of.
    n_new : int
        Predictions that it made.
    seconds : float
    stopped : {"done", "deadline"}
    """

    kind: str
    n_outputs: int
    n_new: int
    seconds: float
    stopped: str

    def __str__(self) -> str:
        rate = f"{self.n_new / self.seconds:.2f}/s" if self.seconds > 0 else ""
        return (
            f"{self.kind} round: {self.n_new} predictions of {self.n_outputs} outputs "
            f"in {self.seconds:.1f} s ({rate}), {self.stopped}"
        )


def generate_rounds(
    tasks: dict[str, Task],
    engine: Engine,
    *,
    n_predictions: int,
    seed: int,
    store: str | Path,
    deadline: float | None = None,
    sampling: Sampling | None = None,
    report: Callable[[Round], None] | None = None,
    **options: Any,
) -> list[Round]:
    """Fill a store until the deadline, at most to `n_predictions` of every test output.

    Parameters
    ----------
    tasks : dict of str to Task
    engine : Engine
    n_predictions : int
        At most so many of each output; a multiple of ``sampling.n``. Without a deadline, exactly
        so many.
    seed : int
    store : str or Path
    deadline : float, optional
        Moment (``time.time()``) at which to stop.
    sampling : Sampling, optional
    report : function of Round, optional
        Called after every round.
    **options
        Passed to `arc_airv.infer.generate_predictions`.

    Returns
    -------
    list of Round

    Notes
    -----
    1. Calibration: one view of every output. Whatever happens later, each has an answer.
    2. Uniform: so many views of every output as fit into half of the time left at the rate of the
       calibration, whole symmetry groups of eight where there is room for one.
    3. Unsettled: again and again a third of the time left, at the latest rate. The round goes
       through the outputs by their gain (see `arc_airv.kaggle.settle.unsettled_outputs`) and gives
       each half as many predictions again, at least eight views, until it is full. Settled ones
       fill up a round that is too small to keep an engine busy.
    """
    sampling = sampling or Sampling()
    if not tasks:
        return []
    if n_predictions < 1 or n_predictions % sampling.n:
        raise ValueError(
            f"n_predictions must be a positive multiple of sampling.n = {sampling.n}, "
            f"got {n_predictions}"
        )
    run = _Run(tasks, engine, n_predictions, Path(store), deadline, sampling.n, report)
    run.options = {**options, "seed": seed, "sampling": sampling}
    run.ask("calibration", dict.fromkeys(run.outputs, min(run.target.values()) + sampling.n))
    if not run.over:
        run.ask("uniform", dict.fromkeys(run.outputs, run.uniform_target()))
    while not run.over:
        run.ask("unsettled", run.unsettled_targets())
    return run.rounds


class _Run:
    """The targets and the clock of one call."""

    options: dict[str, Any]

    def __init__(
        self,
        tasks: dict[str, Task],
        engine: Engine,
        most: int,
        store: Path,
        deadline: float | None,
        n_samples: int,
        report: Callable[[Round], None] | None,
    ) -> None:
        self.tasks = tasks
        self.engine = engine
        self.most = most
        self.store = store
        self.deadline = deadline
        self.n_samples = n_samples
        self.report = report
        self.outputs = outputs_of(tasks)
        self.target = dict.fromkeys(self.outputs, 0)
        if store.exists():
            counts = self._predictions().groupby(["task_id", "test_index"]).size()
            for output in self.outputs:
                # A view that is stored in part is asked again, as a whole.
                n = int(counts.get(output, 0))
                self.target[output] = min(most, n // n_samples * n_samples)
        self.rate = math.inf  # predictions a second; unknown as long as there are none
        self.rounds: list[Round] = []

    @property
    def over(self) -> bool:
        """Whether nothing more can be asked."""
        late = bool(self.rounds) and self.rounds[-1].stopped == "deadline"
        return late or min(self.target.values()) >= self.most

    def ask(self, kind: str, target: dict[Output, int]) -> None:
        """Extend the store to these targets, where they are above the present ones."""
        target = {
            output: max(self.target[output], min(self.most, n)) for output, n in target.items()
        }
        extended = sum(n > self.target[output] for output, n in target.items())
        self.target |= target
        start = time.monotonic()
        summary = generate_predictions(
            self.tasks,
            self.engine,
            n_predictions={output: n for output, n in self.target.items() if n},
            store=self.store,
            deadline=self.deadline,
            **self.options,
        )
        seconds = time.monotonic() - start
        if summary.n_new:
            self.rate = summary.n_new / seconds
        self.rounds.append(Round(kind, extended, summary.n_new, seconds, summary.stopped))
        if self.report:
            self.report(self.rounds[-1])

    def uniform_target(self) -> int:
        """Predictions of every output that half of the time left is enough for."""
        room = UNIFORM_SHARE * self._room() / len(self.outputs)
        n = min(self.most, min(self.target.values()) + min(room, self.most))
        whole = ROUND * self.n_samples
        unit = whole if n >= whole and n < self.most else self.n_samples
        return int(n // unit * unit)

    def unsettled_targets(self) -> dict[Output, int]:
        """More views of the outputs with the most to gain, as many as fill a round."""
        step, least = ROUND * self.n_samples, SMALLEST_ROUND * self.n_samples
        further = min(max(step, self._room() / len(self.outputs)), self.most)
        gains = unsettled_outputs(
            self._predictions(), self.tasks, further=int(further), tolerance=-1
        )
        room = max(ROUND_SHARE * self._room(), least)
        target, n_new = dict(self.target), 0
        for task_id, i, gain in gains[["task_id", "test_index", "gain"]].itertuples(index=False):
            if n_new >= (room if gain > TOLERANCE else least):
                break
            # By half of what it has, so that a long run does not take many small rounds.
            more = max(step, target[task_id, i] // 2 // step * step)
            more = min(more, self.most - target[task_id, i])
            target[task_id, i] += more
            n_new += more
        return target

    def _room(self) -> float:
        """Predictions that can be made until the deadline, at the latest rate."""
        if self.deadline is None or self.rate == math.inf:
            return math.inf
        return self.rate * max(0.0, self.deadline - time.time())

    def _predictions(self) -> Any:
        frame = read_predictions(self.store)
        return frame[frame["task_id"].isin(self.tasks)]
