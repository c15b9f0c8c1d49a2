"""Combine the predictions of several runs: an ensemble of models, augmentations or machines."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from arc_airv.records import read_predictions, task_hashes, warn_of_copies
from arc_airv.vote.candidates import candidate_features, index_pools
from arc_airv.vote.rank import TIES, rank_by_score


def combine_predictions(
    predictions: Sequence[pd.DataFrame | str | Path],
    *,
    weights: Sequence[float] | None = None,
    count: str = "votes",
) -> pd.DataFrame:
    """Rank the candidates of several runs by their weighted votes.

    Parameters
    ----------
    predictions : sequence of DataFrame or path
        Tables of runs, or their stores.
    weights : sequence of float, optional
        The worth of a vote of each run; by default 1.
    count : {"votes", "share"}, default "votes"
        "votes": a run with twice the predictions has twice the say. "share": the votes of a run
        are divided by its valid predictions of the output, so that each run has one say.

    Returns
    -------
    DataFrame
        A ranking; the score of a candidate is ``sum_r weight_r * count_r``, in whatever order the
        runs come.

    Raises
    ------
    ValueError
        If there are no runs, a weight is negative or not finite, there are not as many as runs, or
        two stores answer other tasks of the same ids.
    """
    if count not in ("votes", "share"):
        raise ValueError(f"count must be one of 'votes', 'share', got {count!r}")
    if not len(predictions):
        raise ValueError("there must be at least one run to combine")
    weights = [1.0] * len(predictions) if weights is None else [float(w) for w in weights]
    if len(weights) != len(predictions):
        raise ValueError(f"{len(weights)} weights for {len(predictions)} runs")
    if not all(math.isfinite(w) and w >= 0 for w in weights):
        raise ValueError(f"weights must be finite and at least 0, got {weights}")
    _check_tasks([run for run in predictions if not isinstance(run, pd.DataFrame)])
    runs = [run if isinstance(run, pd.DataFrame) else read_predictions(run) for run in predictions]
    warn_of_copies(runs)
    # Of each run for itself, a greedy reply counts once.
    names = [str(i) + run["model"] if "model" in run else None for i, run in enumerate(runs)]
    pools = index_pools(
        pd.concat([run.assign(run=i, model=names[i]) for i, run in enumerate(runs)])
    )
    valid = pools.voter >= 0
    counts = np.zeros((len(pools.candidates), len(runs)))
    np.add.at(counts, (pools.voter[valid], pools.predictions["run"].to_numpy()[valid]), 1)
    if count == "share":
        of_pool = np.zeros((len(pools.pools), len(runs)))
        np.add.at(of_pool, pools.pool_of, counts)
        counts /= np.maximum(of_pool, 1)[pools.pool_of]
    # Summed in ascending order, so that the order of the runs cannot decide a tie.
    score = np.sort(counts * weights, axis=1).sum(axis=1)
    return rank_by_score(candidate_features(pools, features=TIES).assign(score=score))


def _check_tasks(stores: Sequence[str | Path]) -> None:
    """Raise a ValueError if two stores answer other tasks of the same ids."""
    known: dict[str, str] = {}
    for store in stores:
        hashes = task_hashes(store).items()
        if others := [i for i, content in hashes if known.setdefault(i, content) != content]:
            raise ValueError(
                f"{store} answers {len(others)} tasks that are others in a run before it, though "
                f"their ids are the same, such as {others[:3]}: give the tables that "
                "arc_airv.records.read_predictions(path, tasks=tasks) makes of each"
            )
