"""Combine: several stores by weighted votes, or several submissions slot by slot.

An ensemble of models, of augmentations or of machines. Nothing that is given is changed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from arc_airv.records import read_predictions
from arc_airv.vote.candidates import CANDIDATE, candidate_features
from arc_airv.vote.rank import rank_by_score

COUNTS = ("votes", "share")


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
        Runs, or their stores.
    weights : sequence of float, optional
        What a vote of each run is worth; by default 1.
    count : {"votes", "share"}, default "votes"
        "votes": a run with twice the predictions has twice the say. "share": the votes of a run
        are divided by its valid predictions of the output, so that each run has one say.

    Returns
    -------
    DataFrame
        As of `arc_airv.vote.rank_candidates`, for `arc_airv.vote.select_attempts`; the score of a
        candidate is ``sum_r weight_r * count_r``. It depends neither on the order of the rows nor,
        with its weight, on that of the runs.

    Raises
    ------
    ValueError
        If there are no runs, a weight is negative or not finite, or there are not as many as runs.
    """
    if count not in COUNTS:
        raise ValueError(f"count must be one of {COUNTS}, got {count!r}")
    if not len(predictions):
        raise ValueError("there must be at least one run to combine")
    weights = [1.0] * len(predictions) if weights is None else [float(w) for w in weights]
    if len(weights) != len(predictions):
        raise ValueError(f"{len(weights)} weights for {len(predictions)} runs")
    if not all(math.isfinite(w) and w >= 0 for w in weights):
        raise ValueError(f"weights must be finite and at least 0, got {weights}")
    tables = []
    for run, weight in zip(predictions, weights):
        frame = run if isinstance(run, pd.DataFrame) else read_predictions(run)
        table = candidate_features(frame, features=["votes", "share", "mean_token_logprob"])
        # A mean over the runs has to weigh each by its votes, where it is known.
        known = table["mean_token_logprob"].notna()
        table["known"] = np.where(known, table["votes"], 0)
        table["total_logprob"] = (table["mean_token_logprob"] * table["known"]).fillna(0.0)
        tables.append(table.assign(score=weight * table[count]))
    # fsum rounds once, so the order of the runs cannot decide a tie.
    merged = (
        pd.concat(tables)
        .groupby(CANDIDATE, as_index=False)
        .agg(
            score=("score", math.fsum),
            votes=("votes", "sum"),
            known=("known", "sum"),
            total_logprob=("total_logprob", math.fsum),
        )
    )
    mean = merged["total_logprob"] / merged["known"].where(merged["known"] > 0)
    return rank_by_score(merged.assign(mean_token_logprob=mean))
