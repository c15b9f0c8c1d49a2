"""Compare predictions with the solutions: all candidates of a shape at once."""

import numpy as np
import pandas as pd

from arc_airv.grids import format_grid, stack_grids
from arc_airv.tasks import Task, outputs_of
from arc_airv.vote.candidates import CANDIDATE, POOL, Pools, index_pools

SIZES = ["correct_size", "correct_pixels"]
SCORES = ["correct", *SIZES, "answered"]  # of a single prediction; each is 0 for an invalid one


def solutions_of(tasks: dict[str, Task]) -> pd.DataFrame:
    """Return a table of `CANDIDATE`: the solution of every test output, in the order of `tasks`."""
    rows = []
    for task_id, i in outputs_of(tasks):
        if (solution := tasks[task_id].test[i].output) is None:
            raise ValueError(f"task {task_id}: the solution of test output {i} is hidden")
        rows.append((task_id, i, format_grid(solution)))
    return pd.DataFrame(rows, columns=CANDIDATE)


def number_outputs(frame: pd.DataFrame, tasks: dict[str, Task]) -> np.ndarray:
    """Number the test output of each row: 0, 1, ... in the order of `tasks`."""
    known = pd.MultiIndex.from_tuples(outputs_of(tasks), names=POOL)
    rows = pd.MultiIndex.from_frame(frame[POOL])
    found = known.get_indexer(rows)
    if (found < 0).any():
        unknown = sorted(set(rows[found < 0]))[:5]
        raise ValueError(f"predictions for outputs that are not in the tasks: {unknown}")
    return found


def find_right(candidates: pd.DataFrame, tasks: dict[str, Task]) -> np.ndarray:
    """Tell which predictions or candidates are right: shape (n_candidates,), dtype bool."""
    solutions = solutions_of(tasks)["grid"].to_numpy(dtype=object)
    expected = solutions[number_outputs(candidates, tasks)]
    return candidates["grid"].to_numpy(dtype=object) == expected


def right_ranks(ranked: pd.DataFrame, tasks: dict[str, Task]) -> pd.DataFrame:
    """Find the rank of the right grid of every test output.

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

    Returns
    -------
    DataFrame
        The predictions, indexed 0, 1, 2, ..., with four more columns: correct, correct_size,
        correct_pixels, answered, all floats in [0, 1]; 0 for an invalid prediction.
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
