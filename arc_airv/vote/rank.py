"""Ranking: order the candidates of each pool by a selector's score, select the attempts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from arc_airv.grids import Grid, parse_grid
from arc_airv.tasks import Task, check_count, check_output
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
    method : str, dict or Selector, default "votes"
        - "votes": the number of predictions that gave the grid. Equal ones are ordered by mean
          log-probability per token (the second voting rule of ironbar/arc24).
        - "logprob": the highest log-probability (nats) among the predictions of the grid.
        - "cells": vote cell by cell, see `compose` of `arc_airv.vote.candidate_features`. The
          score is the number of predictions of the candidate's shape plus the mean share (0-1) of
          them that agree with its cells, so the most voted shape goes first and its composed grid
          leads it.
        - Any other name of `arc_airv.vote.METHODS`: that formula. Some need `scores`.
        - A dict: the weight of each feature of `arc_airv.vote.candidate_features`.
        - A `arc_airv.vote.Selector`, such as a fitted one.
    filters : sequence of {"copy", "shape", "colors"} or of functions, default ()
        Candidates that one of them rules out, by the demonstrations of `tasks`, go behind all
        others of the pool; see `arc_airv.vote.filters`.

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
    """
    selector = find_selector(method)
    features, compose = list(dict.fromkeys([*TIES, *selector.features])), selector.compose
    table = candidate_features(predictions, features=features, scores=scores, compose=compose)
    table["score"] = selector.score(table)
    if len(filters) and tasks is None:
        raise ValueError("filters need tasks=, whose demonstrations they judge by")
    ruled_out = rule_out(table, tasks, filters=filters).any(axis=1) if len(filters) else False
    return _rank(table, selector.then, ruled_out)


def rank_by_score(candidates: pd.DataFrame) -> pd.DataFrame:
    """Rank candidates by a column score of one's own: higher is better, NaN is worst.

    The table is a ranking, or one of `arc_airv.vote.candidate_features` with votes and
    mean_token_logprob, and that column.
    """
    candidates = candidates.rename(columns={"mean_logprob": "mean_token_logprob"})
    check_columns(candidates, [*CANDIDATE, "score", *TIES], name="candidates")
    return _rank(candidates.sort_values(CANDIDATE, ignore_index=True))


def best_samples(predictions: pd.DataFrame) -> pd.DataFrame:
    """Keep the likeliest sample of each view, of each model: a beam search by sampling.

    That is the valid reply of the highest cumulative_logprob, the first of equals; where none is
    valid, the likeliest reply. The rows keep their order.
    """
    order = predictions.assign(valid=predictions["grid"].notna(), place=range(len(predictions)))
    by = ["valid", "cumulative_logprob", "sample_index"]
    order = order.sort_values(by, ascending=[False, False, True])
    view = [*POOL, "augmentation", *({"model"} & set(predictions))]
    best = order.drop_duplicates(view).sort_values("place")
    return best.drop(columns=["valid", "place"])


def select_attempts(
    ranked: pd.DataFrame, tasks: dict[str, Task], *, n_attempts: int = 2
) -> dict[str, list[list[Grid]]]:
    """Select the best candidates of every test output of every task.

    Returns
    -------
    dict of str to list of list of grid
        ``attempts[task_id][test_index]``: up to `n_attempts` different grids, best first.

    Raises
    ------
    ValueError
        If `ranked` names an output that `tasks` does not have, or holds several rankings.
    """
    if ranked.duplicated(names := [*POOL, "rank"]).any() or ranked.duplicated(CANDIDATE).any():
        raise ValueError(
            f"a ranking has one row for each {names} and each grid: this one holds several, which "
            "arc_airv.vote.combine_predictions makes one of"
        )
    check_count("n_attempts", n_attempts)
    attempts = {task_id: [[] for _ in task.test] for task_id, task in tasks.items()}
    best = ranked[ranked["rank"] <= n_attempts].sort_values([*POOL, "rank"])
    for task_id, test_index, grid in best[[*POOL, "grid"]].itertuples(index=False):
        check_output(tasks, task_id, test_index)
        attempts[task_id][test_index].append(parse_grid(grid))
    return attempts


def _rank(table: pd.DataFrame, then: Sequence[str] = (), last: Any = False) -> pd.DataFrame:
    """Rank the rows of each pool; `table` is sorted by pool and grid, which decides at last."""
    keys = [table[name].to_numpy(dtype=float) for name in ("score", *then, *TIES)]
    best_first = [np.where(np.isnan(values), np.inf, -values) for values in keys]
    pool = table.groupby(POOL).ngroup().to_numpy()
    ranked = table.iloc[np.lexsort([*best_first[::-1], np.full(len(table), last), pool])]
    ranked = ranked.rename(columns={"mean_token_logprob": "mean_logprob"})
    ranked["rank"] = ranked.groupby(POOL, sort=False).cumcount() + 1
    columns = [*POOL, "rank", "grid", "votes", "score", "mean_logprob"]
    return ranked[columns].reset_index(drop=True)
