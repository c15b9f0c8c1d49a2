"""Compare predictions with the solutions: all candidates of a shape at once."""

from __future__ import annotations

import numpy as np
import pandas as pd

from arc_airv.grids import format_grid, stack_grids
from arc_airv.tasks import Task, outputs_of
from arc_airv.vote.candidates import CANDIDATE, POOL, Pools, index_pools

# What a single prediction is worth; the value of an invalid one is 0.
SCORES = ["correct", "correct_size", "correct_pixels", "answered"]


def solutions_of(tasks: dict[str, Task]) -> pd.DataFrame:
    """Return the solution of every test output, in the order of `tasks`.

    Returns
    -------
    DataFrame
        Columns task_id, test_index, grid ("012|345").

    Raises
    ------
    ValueError
        If one is hidden.
    """
    rows = []
    for task_id, task in tasks.items():
        for i, pair in enumerate(task.test):
            if pair.output is None:
                raise ValueError(f"task {task_id}: the solution of test output {i} is hidden")
            rows.append((task_id, i, format_grid(pair.output)))
    return pd.DataFrame(rows, columns=CANDIDATE)


def number_outputs(frame: pd.DataFrame, tasks: dict[str, Task]) -> np.ndarray:
    """Number the test output of each row: 0, 1, ... in the order of `tasks`.

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


def find_right(candidates: pd.DataFrame, tasks: dict[str, Task]) -> np.ndarray:
    """Tell which grids are the solution of their test output.

    Parameters
    ----------
    candidates : DataFrame
        Columns task_id, test_index, grid: predictions, or candidates as
        `arc_airv.vote.rank_candidates` gives them.
    tasks : dict of str to Task
        With their test outputs.

    Returns
    -------
    ndarray of shape (n_candidates,), dtype bool
    """
    solutions = solutions_of(tasks)["grid"].to_numpy(dtype=object)
    expected = solutions[number_outputs(candidates, tasks)]
    return candidates["grid"].to_numpy(dtype=object) == expected


def right_ranks(ranked: pd.DataFrame, tasks: dict[str, Task]) -> pd.DataFrame:
    """Find the rank of the right grid of every test output.

    Parameters
    ----------
    ranked : DataFrame
        As `arc_airv.vote.rank_candidates` gives it, of any method.
    tasks : dict of str to Task
        With their test outputs.

    Returns
    -------
    DataFrame
        One row a test output, in the order of `tasks`: task_id, test_index, rank (from 1; NaN if
        the right grid is no candidate), votes (of the right grid), n_candidates.
    """
    ranks = solutions_of(tasks)[POOL].assign(rank=np.nan, votes=0)
    right = ranked[find_right(ranked, tasks)]
    ranks.loc[number_outputs(right, tasks), ["rank", "votes"]] = right[["rank", "votes"]].to_numpy()
    number = number_outputs(ranked, tasks)
    return ranks.assign(n_candidates=np.bincount(number, minlength=len(ranks)))


def score_predictions(predictions: pd.DataFrame | Pools, tasks: dict[str, Task]) -> pd.DataFrame:
    """Compare every prediction with its solution.

    Parameters
    ----------
    predictions : DataFrame or Pools
        As `arc_airv.records.read_predictions` gives it.
    tasks : dict of str to Task
        With their test outputs.

    Returns
    -------
    DataFrame
        The predictions with four more columns: correct, correct_size, correct_pixels, answered,
        all floats in [0, 1]; 0 for an invalid prediction. Its index is 0, 1, 2, ...

    Raises
    ------
    ValueError
        If a prediction is for an output that `tasks` does not have, or a solution is hidden.
    """
    pools = index_pools(predictions)
    scores = np.zeros((len(pools.candidates) + 1, len(SCORES)))  # the last row: no grid
    scores[:-1, 0] = find_right(pools.candidates, tasks)
    scores[:-1, 1:3] = _size_and_pixels(pools, tasks)
    scores[:-1, 3] = 1.0
    scored = pools.predictions.reset_index(drop=True)
    scored[SCORES] = scores[pools.candidate]
    return scored


def _size_and_pixels(pools: Pools, tasks: dict[str, Task]) -> np.ndarray:
    """Score each candidate: 1 if its shape is right, and the share of its cells that are."""
    solutions = stack_grids(solutions_of(tasks)["grid"].tolist())
    of_shape = {grids.shape[1:]: (outputs, grids) for outputs, grids in solutions}
    output = number_outputs(pools.pools, tasks)[pools.pool_of]
    scores = np.zeros((len(pools.candidates), 2))
    for rows, grids in stack_grids(pools.candidates["grid"].tolist()):
        outputs, targets = of_shape.get(grids.shape[1:], ([], grids))
        same = np.isin(output[rows], outputs)
        place = np.searchsorted(outputs, output[rows[same]])
        scores[rows[same], 0] = 1.0
        scores[rows[same], 1] = (grids[same] == targets[place]).mean(axis=(1, 2))
    return scores
