"""Compare predictions with the solutions: all candidates of a shape at once."""

from __future__ import annotations

import numpy as np
import pandas as pd

from arc_airv.grids import Grid, format_grid, stack_grids
from arc_airv.tasks import Task, outputs_of
from arc_airv.vote.candidates import POOL, Pools, index_pools

# What a single prediction is worth; the value of an invalid one is 0.
SCORES = ["correct", "correct_size", "correct_pixels", "answered"]


def targets_of(tasks: dict[str, Task]) -> dict[tuple[str, int], Grid]:
    """The solution of every test output, by task id and test index, in the order of `tasks`.

    Raises
    ------
    ValueError
        If one is hidden.
    """
    targets = {}
    for task_id, task in tasks.items():
        for i, pair in enumerate(task.test):
            if pair.output is None:
                raise ValueError(f"task {task_id}: the solution of test output {i} is hidden")
            targets[task_id, i] = pair.output
    return targets


def score_predictions(predictions: pd.DataFrame, tasks: dict[str, Task]) -> pd.DataFrame:
    """Compare every prediction with its solution.

    Parameters
    ----------
    predictions : DataFrame
        As `arc_airv.records.read_predictions` gives it.
    tasks : dict of str to Task
        With their test outputs.

    Returns
    -------
    DataFrame
        `predictions` with four more columns: correct, correct_size, correct_pixels, answered, all
        floats in [0, 1]; 0 for an invalid prediction. Its index is 0, 1, 2, ...

    Raises
    ------
    ValueError
        If a prediction is for an output that `tasks` does not have, or a solution is hidden.
    """
    pools = index_pools(predictions)
    scores = np.zeros((len(pools.candidates) + 1, len(SCORES)))  # the last row: no grid
    scores[:-1, 0] = find_right(pools, tasks)
    scores[:-1, 1:3] = _size_and_pixels(pools, tasks)
    scores[:-1, 3] = 1.0
    scored = predictions.reset_index(drop=True)
    scored[SCORES] = scores[pools.candidate]
    return scored


def find_right(pools: Pools, tasks: dict[str, Task]) -> np.ndarray:
    """Which candidates are the solution: shape (n_candidates,), dtype bool."""
    solutions = [format_grid(target) for target in targets_of(tasks).values()]
    of_pool = number_outputs(pools.pools, tasks)
    right = [solutions[i] for i in of_pool[pools.pool_of].tolist()]
    grids = pools.candidates["grid"].tolist()
    return np.array([grid == solution for grid, solution in zip(grids, right)], dtype=bool)


def number_outputs(frame: pd.DataFrame, tasks: dict[str, Task]) -> np.ndarray:
    """Of each row: which test output it is for, 0, 1, ... in the order of `tasks`.

    Raises
    ------
    ValueError
        If `tasks` does not have it.
    """
    number = pd.Series({key: i for i, key in enumerate(outputs_of(tasks))}, dtype=np.int64)
    index = pd.MultiIndex.from_frame(frame[POOL])
    found = number.index.get_indexer(index) if len(number) else np.full(len(frame), -1)
    if (found < 0).any():
        unknown = sorted(set(index[found < 0]))[:5]
        raise ValueError(f"predictions for outputs that are not in the tasks: {unknown}")
    return found


def _size_and_pixels(pools: Pools, tasks: dict[str, Task]) -> np.ndarray:
    """Of each candidate: whether its shape is right, and the share of its cells that are."""
    targets = list(targets_of(tasks).values())
    output = number_outputs(pools.pools, tasks)[pools.pool_of]
    scores = np.zeros((len(pools.candidates), 2))
    for rows, grids in stack_grids(pools.candidates["grid"].tolist()):
        shape = grids.shape[1:]
        same = [i for i, target in enumerate(targets) if target.shape == shape]
        place = np.full(len(targets), -1)
        place[same] = np.arange(len(same))
        kept = place[output[rows]] >= 0
        if kept.any():
            solutions = np.stack([targets[i] for i in same])[place[output[rows[kept]]]]
            scores[rows[kept], 0] = 1.0
            scores[rows[kept], 1] = (grids[kept] == solutions).mean(axis=(1, 2))
    return scores
