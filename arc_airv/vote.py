"""Voting: rank the candidates of each pool, select the attempts.

A pool is all predictions for one test output; its candidates are its distinct grids. A selector
gives every candidate a score. All of them are deterministic and do not depend on the order of the
rows. Knows nothing of solutions.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from arc_airv.grids import N_COLORS, Grid, format_grid, parse_grid
from arc_airv.tasks import Task

POOL = ["task_id", "test_index"]


def rank_candidates(predictions: pd.DataFrame, *, method: str = "votes") -> pd.DataFrame:
    """Rank the candidates of every pool, best first.

    Parameters
    ----------
    predictions : DataFrame
        As `arc_airv.records.read_predictions` gives it; needs the columns task_id, test_index,
        grid, cumulative_logprob and n_tokens. Rows without a grid are no candidates.
    method : {"votes", "logprob", "cells"}, default "votes"
        - "votes": how many predictions gave the grid.
        - "logprob": the highest log-probability (nats) among the predictions of the grid.
        - "cells": vote cell by cell. The predictions are grouped by shape; in each shape every
          cell takes the colour that most predictions give it (a tie: the colour in the grid
          that "votes" ranks higher), and the grid so composed joins the candidates, with no
          votes if nobody predicted it. The score is the number of predictions of the
          candidate's shape plus the mean share (0-1) of them that agree with its cells, so the
          most voted shape goes first and its composed grid leads it.

    Returns
    -------
    DataFrame
        Columns task_id, test_index, rank (from 1), grid, votes, score (higher is better),
        mean_logprob (nats per token, mean over the predictions of the grid; NaN if unknown).
        Equal scores are ordered by votes, then by mean_logprob, then by grid.

    Raises
    ------
    ValueError
        If `method` is unknown or a column is missing.

    Notes
    -----
    The tie-break of "votes" by mean log-probability per token is the second voting rule of
    ironbar/arc24.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {sorted(METHODS)}, got {method!r}")
    needed = [*POOL, "grid", "cumulative_logprob", "n_tokens"]
    missing = [name for name in needed if name not in predictions.columns]
    if missing:
        raise ValueError(f"predictions lack the columns {missing}")
    valid = predictions.loc[predictions["grid"].notna(), needed]
    valid = valid.assign(mean_logprob=valid["cumulative_logprob"] / valid["n_tokens"])
    # Sorted by value, so that sums do not depend on the order of the rows in the last digit.
    valid = valid.sort_values("mean_logprob")
    candidates = (
        valid.groupby([*POOL, "grid"], sort=False)
        .agg(
            votes=("grid", "size"),
            mean_logprob=("mean_logprob", "mean"),
            best_logprob=("cumulative_logprob", "max"),
        )
        .reset_index()
    )
    ranked = METHODS[method](candidates)
    ranked = ranked.sort_values(
        [*POOL, "score", "votes", "mean_logprob", "grid"],
        ascending=[True, True, False, False, False, True],
        na_position="last",
        ignore_index=True,
    )
    ranked["rank"] = ranked.groupby(POOL).cumcount() + 1
    return ranked[[*POOL, "rank", "grid", "votes", "score", "mean_logprob"]]


def select_attempts(
    ranked: pd.DataFrame, tasks: dict[str, Task], *, n_attempts: int = 2
) -> dict[str, list[list[Grid]]]:
    """The best candidates of every test output of every task.

    Parameters
    ----------
    ranked : DataFrame
        As `rank_candidates` gives it.
    tasks : dict of str to Task
        Fixes which test outputs there are.
    n_attempts : int, default 2

    Returns
    -------
    dict of str to list of list of grid
        ``attempts[task_id][test_index]`` holds up to `n_attempts` different grids, best first;
        none where there was no candidate.

    Raises
    ------
    ValueError
        If `ranked` names an output that `tasks` does not have.
    """
    if n_attempts < 1:
        raise ValueError(f"n_attempts must be at least 1, got {n_attempts}")
    attempts = {task_id: [[] for _ in task.test] for task_id, task in tasks.items()}
    best = ranked[ranked["rank"] <= n_attempts].sort_values([*POOL, "rank"])
    for task_id, test_index, grid in best[[*POOL, "grid"]].itertuples(index=False):
        if test_index not in range(len(attempts.get(task_id, ()))):
            raise ValueError(f"the tasks have no test output {test_index} of task {task_id!r}")
        attempts[task_id][test_index].append(parse_grid(grid))
    return attempts


def _by_votes(candidates: pd.DataFrame) -> pd.DataFrame:
    return candidates.assign(score=candidates["votes"].astype(float))


def _by_logprob(candidates: pd.DataFrame) -> pd.DataFrame:
    return candidates.assign(score=candidates["best_logprob"].fillna(-np.inf))


def _by_cells(candidates: pd.DataFrame) -> pd.DataFrame:
    # In the order of "votes", so that the first maximum of a cell breaks ties.
    candidates = candidates.sort_values(
        [*POOL, "votes", "mean_logprob", "grid"], ascending=[True, True, False, False, True]
    )
    shapes = candidates["grid"].map(lambda g: (g.count("|") + 1, g.find("|") % (len(g) + 1)))
    parts = []
    for _, group in candidates.groupby([*POOL, shapes.rename("shape")], sort=False):
        grids = np.stack([parse_grid(g) for g in group["grid"]])  # (candidates, height, width)
        votes = group["votes"].to_numpy()
        by_color = [(votes[:, None, None] * (grids == c)).sum(axis=0) for c in range(N_COLORS)]
        # The votes of each candidate's own colour in each of its cells.
        support = np.take_along_axis(np.stack(by_color), grids.astype(np.intp), axis=0)
        composed = np.take_along_axis(grids, support.argmax(axis=0)[None], axis=0)[0]
        group = group.assign(score=votes.sum() + support.mean(axis=(1, 2)) / votes.sum())
        text = format_grid(composed)
        if text not in set(group["grid"]):
            extra = group.iloc[:1].assign(
                grid=text,
                votes=0,
                mean_logprob=np.nan,
                best_logprob=np.nan,
                score=votes.sum() + support.max(axis=0).mean() / votes.sum(),
            )
            group = pd.concat([group, extra])
        parts.append(group)
    return pd.concat(parts) if parts else candidates.assign(score=0.0)


METHODS = {"votes": _by_votes, "logprob": _by_logprob, "cells": _by_cells}
