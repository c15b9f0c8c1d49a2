"""Studies of selection on a stored pool: selectors side by side, ranks, calibration.

Knows solutions, as `arc_airv.metrics` does, and chooses nothing: every table takes selectors or
their rankings and says how good they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from arc_airv.compare import find_right, targets_of
from arc_airv.grids import format_grid
from arc_airv.metrics import average_outputs, bootstrap_interval, score_outputs, vote_score
from arc_airv.pools import POOL, index_pools
from arc_airv.tasks import Task
from arc_airv.vote import rank_candidates


def compare_selectors(
    predictions: pd.DataFrame,
    tasks: dict[str, Task],
    selectors: Mapping[str, Mapping[str, Any]],
    *,
    average: str = "output",
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Selectors on the same pools, each against the first.

    Parameters
    ----------
    predictions : DataFrame
        As `arc_airv.records.read_predictions` gives it.
    tasks : dict of str to Task
        All tasks of the data set, with their test outputs.
    selectors : mapping of str to dict
        By a name of its own: options of `arc_airv.vote.rank_candidates`. The first is the baseline.
    average : {"task", "output"}, default "output"
    n_resamples, seed : int
        Of the bootstrap over tasks.

    Returns
    -------
    DataFrame
        Indexed by name, with the columns

        vote_1, vote_2
            Share of the outputs that the first candidate, or one of the first two, solves.
        voting_accuracy
            vote_2 / pass_n (NaN if pass_n is 0).
        gap_closed
            How far vote_2 is on the way from two predictions drawn at random to the best possible:
            ``(vote_2 - random_2) / (pass_n - random_2)``; NaN if there is no gap.
        gain, low, high
            vote_2 less that of the baseline, and its 95% interval: both selectors on the same
            resampled tasks.

        The attributes ``pass_n`` and ``random_2`` of the frame (``frame.attrs``) are those of the
        pools, whatever selects.

    Raises
    ------
    ValueError
        If there is no selector.
    """
    if not selectors:
        raise ValueError("selectors must name at least one selector, got none")
    outputs = score_outputs(predictions, tasks)
    limits = average_outputs(outputs, average=average)
    gap = limits["pass_n"] - limits["random_2"]
    rows, baseline = {}, None
    for name, options in selectors.items():
        ranked = rank_candidates(predictions, tasks=tasks, **options)
        hits = outputs[POOL].assign(
            vote_1=vote_score(ranked, tasks, k=1), vote_2=vote_score(ranked, tasks, k=2)
        )
        baseline = hits["vote_2"] if baseline is None else baseline
        hits["gain"] = hits["vote_2"] - baseline
        hits["pass_n"] = outputs["pass_n"]
        table = bootstrap_interval(hits, average=average, n_resamples=n_resamples, seed=seed)
        rows[name] = {
            **table["value"][["vote_1", "vote_2", "voting_accuracy"]],
            "gap_closed": (table["value"]["vote_2"] - limits["random_2"]) / gap if gap else np.nan,
            **table.loc["gain"].rename({"value": "gain"}),
        }
    compared = pd.DataFrame.from_dict(rows, orient="index")
    compared.attrs = {"pass_n": limits["pass_n"], "random_2": limits["random_2"]}
    return compared


def right_ranks(ranked: pd.DataFrame, tasks: dict[str, Task]) -> pd.DataFrame:
    """Where the right grid of every test output came.

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
    solutions = pd.DataFrame(
        [(*key, format_grid(grid)) for key, grid in targets_of(tasks).items()],
        columns=[*POOL, "grid"],
    )
    found = solutions.merge(
        ranked[[*POOL, "grid", "rank", "votes"]], on=[*POOL, "grid"], how="left"
    )
    sizes = ranked.groupby(POOL).size().rename("n_candidates").reset_index()
    found = found.merge(sizes, on=POOL, how="left").drop(columns="grid")
    return found.fillna({"votes": 0, "n_candidates": 0}).astype({"votes": int, "n_candidates": int})


def calibration(
    confidence: np.ndarray, right: np.ndarray, *, n_bins: int = 10, edges: np.ndarray | None = None
) -> pd.DataFrame:
    """How often what is believed with some confidence is right.

    Parameters
    ----------
    confidence : array-like of shape (n,)
        In [0, 1]: such as the share of votes of the first candidate of each pool.
    right : array-like of bool of shape (n,)
    n_bins : int, default 10
        Bins of equal width.
    edges : ndarray, optional
        The edges of the bins, ascending, if they shall not be equal.

    Returns
    -------
    DataFrame
        One row a bin that is not empty: low, high (the bin holds low < confidence <= high; the
        first one low, too), n, confidence (mean), right (share). ``frame.attrs["error"]`` is the
        expected calibration error, the mean over all n of |right - confidence| of their bins
        (Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", 2015).

    Raises
    ------
    ValueError
        If a confidence is not in [0, 1].
    """
    confidence, right = np.asarray(confidence, dtype=float), np.asarray(right, dtype=float)
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("every confidence must be in [0, 1]")
    edges = np.linspace(0, 1, n_bins + 1) if edges is None else np.asarray(edges, dtype=float)
    bins = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, len(edges) - 2)
    rows = []
    for b in np.unique(bins):
        inside = bins == b
        means = confidence[inside].mean(), right[inside].mean()
        rows.append((edges[b], edges[b + 1], inside.sum(), *means))
    table = pd.DataFrame(rows, columns=["low", "high", "n", "confidence", "right"])
    gaps = (table["right"] - table["confidence"]).abs()
    table.attrs = {"error": float((gaps * table["n"]).sum() / max(1, len(right)))}
    return table


def right_candidates(candidates: pd.DataFrame, tasks: dict[str, Task]) -> np.ndarray:
    """Which candidates are the solution of their test output.

    Parameters
    ----------
    candidates : DataFrame
        Columns task_id, test_index, grid: as `arc_airv.vote.rank_candidates` or
        `arc_airv.pools.candidate_features` gives them.
    tasks : dict of str to Task
        With their test outputs.

    Returns
    -------
    ndarray of shape (n_candidates,), dtype bool
    """
    pools = index_pools(candidates)
    return find_right(pools, tasks)[pools.candidate]
