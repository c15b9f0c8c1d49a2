"""Voting: rank the candidates of each pool, select the attempts.

A pool is all predictions for one test output; its candidates are its distinct grids. A selector
gives every candidate a score. All of them are deterministic and do not depend on the order of the
rows. Knows nothing of solutions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from arc_airv.grids import Grid, parse_grid
from arc_airv.tasks import Task, check_output
from arc_airv.vote.candidates import CANDIDATE, POOL, Pools, candidate_features, check_columns
from arc_airv.vote.filters import Filter, rule_out
from arc_airv.vote.selectors import Selector, find_selector

TIES = ("votes", "mean_token_logprob")


def rank_candidates(
    predictions: pd.DataFrame | Pools,
    *,
    method: str | Mapping[str, float] | Selector = "votes",
    scores: pd.DataFrame | None = None,
    filters: Sequence[str | Filter] = (),
    tasks: dict[str, Task] | None = None,
) -> pd.DataFrame:
    """Rank the candidates of every pool, best first.

    Parameters
    ----------
    predictions : DataFrame or Pools
        As `arc_airv.records.read_predictions` gives it; needs the columns task_id, test_index,
        grid, cumulative_logprob and n_tokens. Rows without a grid are no candidates.
    method : str, dict or Selector, default "votes"
        - "votes": the number of predictions that gave the grid.
        - "logprob": the highest log-probability (nats) among the predictions of the grid.
        - "cells": vote cell by cell, see `compose` of `arc_airv.vote.candidate_features`. The
          score is the number of predictions of the candidate's shape plus the mean share (0-1) of
          them that agree with its cells, so the most voted shape goes first and its composed grid
          leads it.
        - Any other name of `arc_airv.vote.METHODS`: that formula. Some need `scores`.
        - A dict: the weight of each feature of `arc_airv.vote.candidate_features`.
        - A `arc_airv.vote.Selector`, such as a fitted one.
    scores : DataFrame, optional
        Re-scores, see `arc_airv.vote.candidate_features`.
    filters : sequence of {"copy", "shape", "colors"} or of functions, default ()
        What any of them rules out goes behind all other candidates of the pool; see
        `arc_airv.vote.filters`.
    tasks : dict of str to Task, optional
        What the filters judge by. Their test outputs are not looked at.

    Returns
    -------
    DataFrame
        Columns task_id, test_index, rank (from 1), grid, votes, score (higher is better),
        mean_logprob (nats per token, mean over the predictions of the grid; NaN if unknown).
        Equal scores are ordered by votes, then by mean_logprob, then by grid.

    Raises
    ------
    ValueError
        If `method` is unknown, a column is missing, or options do not fit together.

    Notes
    -----
    The tie-break of "votes" by mean log-probability per token is the second voting rule of
    ironbar/arc24.
    """
    selector = find_selector(method)
    features = list(dict.fromkeys([*TIES, *selector.features]))
    table = candidate_features(
        predictions, features=features, scores=scores, compose=selector.compose
    )
    table["score"] = selector.score(table)
    ruled_out = np.zeros(len(table), dtype=bool)
    if len(filters):
        if tasks is None:
            raise ValueError("filters need tasks=, whose demonstrations they judge by")
        ruled_out = rule_out(table, tasks, filters=filters).to_numpy().any(axis=1)
    return _rank(table, then=selector.then, last=ruled_out)


def rank_by_score(candidates: pd.DataFrame) -> pd.DataFrame:
    """Rank candidates by a score of one's own.

    Parameters
    ----------
    candidates : DataFrame
        As `rank_candidates` gives them, or as `arc_airv.vote.candidate_features` with votes and
        mean_token_logprob; with a column score of one's own (higher is better; NaN is worst).

    Returns
    -------
    DataFrame
        As of `rank_candidates`.
    """
    candidates = candidates.rename(columns={"mean_logprob": "mean_token_logprob"})
    check_columns(candidates, [*CANDIDATE, "score", *TIES], name="candidates")
    table = candidates.sort_values(CANDIDATE, ignore_index=True)
    return _rank(table, last=np.zeros(len(table), dtype=bool))


def best_samples(predictions: pd.DataFrame) -> pd.DataFrame:
    """Keep the likeliest sample of each view: a beam search by sampling.

    Parameters
    ----------
    predictions : DataFrame
        As `arc_airv.records.read_predictions` gives it, several samples a view.

    Returns
    -------
    DataFrame
        One row a view, in the order of `predictions`: the valid reply of the highest
        cumulative_logprob, the first of equals; where none is valid, the first sample.
    """
    order = predictions.assign(
        valid=predictions["grid"].notna(), place=np.arange(len(predictions))
    ).sort_values(
        ["valid", "cumulative_logprob", "sample_index"],
        ascending=[False, False, True],
        na_position="last",
        kind="stable",
    )
    best = order.drop_duplicates([*POOL, "augmentation"]).sort_values("place")
    return best.drop(columns=["valid", "place"])


def select_attempts(
    ranked: pd.DataFrame, tasks: dict[str, Task], *, n_attempts: int = 2
) -> dict[str, list[list[Grid]]]:
    """Select the best candidates of every test output of every task.

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
        check_output(tasks, task_id, test_index)
        attempts[task_id][test_index].append(parse_grid(grid))
    return attempts


def _rank(table: pd.DataFrame, *, then: Sequence[str] = (), last: np.ndarray) -> pd.DataFrame:
    """Rank the rows of each pool; `table` is sorted by pool and grid, which decides at last."""
    keys = [table[name].to_numpy(dtype=float) for name in ("score", *then, *TIES)]
    best_first = [np.where(np.isnan(values), np.inf, -values) for values in keys]
    pool = table.groupby(POOL).ngroup().to_numpy()
    ranked = table.iloc[np.lexsort([*best_first[::-1], last, pool])]
    ranked = ranked.rename(columns={"mean_token_logprob": "mean_logprob"})
    ranked["rank"] = ranked.groupby(POOL, sort=False).cumcount() + 1
    columns = [*POOL, "rank", "grid", "votes", "score", "mean_logprob"]
    return ranked[columns].reset_index(drop=True)
