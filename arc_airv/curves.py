"""Metrics against the number of predictions: how much more asking brings.

The value at n is the expectation over all subsets of n of an output's N predictions, drawn without
replacement: exact where a closed form exists, estimated from seeded subsamples for the votes.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from arc_airv.grids import format_grid
from arc_airv.metrics import (
    average_pools,
    bootstrap_interval,
    expected_best,
    pass_at_k,
    score_predictions,
    targets_of,
)
from arc_airv.tasks import Task
from arc_airv.vote import POOL

VOTES = (1, 2)  # the curves vote_1 and vote_2


def metric_curves(
    predictions: pd.DataFrame,
    tasks: dict[str, Task],
    *,
    n_predictions: list[int] | None = None,
    average: str = "task",
    n_subsamples: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """Metrics against the number of predictions per test output.

    Parameters
    ----------
    predictions : DataFrame
        As `arc_airv.records.read_predictions` gives it; the order of its rows does not matter.
    tasks : dict of str to Task
        All tasks of the data set, with their test outputs.
    n_predictions : list of int, optional
        Where to evaluate; by default 1, 2, 4, ... and the size of the largest pool. An output with
        fewer predictions counts with all it has.
    average : {"task", "output"}, default "task"
    n_subsamples : int, default 20
        Random subsets for vote_1 and vote_2 (by the method "votes").
    seed : int, default 0

    Returns
    -------
    DataFrame
        Columns metric, n, value, low, high: the interval is a 95% bootstrap over tasks.

    Raises
    ------
    ValueError
        If there are no predictions, or one is for an output that `tasks` does not have.

    Notes
    -----
    accuracy, correct_size, correct_pixels and unanswered do not depend on n. pass_n is
    `pass_at_k`, the best of n `expected_best`. vote_k is the exact pass_n times the share of the
    subsamples holding the right grid in which it is among the first k: never above pass_n, and
    exact for n <= k.
    """
    scored = score_predictions(predictions, tasks)
    order = [*POOL, "augmentation", "sample_index"]
    scored = scored.sort_values([name for name in order if name in scored], ignore_index=True)
    full = average_pools(scored, tasks).drop(columns="random_2")
    largest = int(full["n_predictions"].max())
    if largest == 0:
        raise ValueError("no predictions to draw a curve of")
    if n_predictions is None:
        n_predictions = sorted({2**i for i in range(largest.bit_length())} | {largest})
    empty = scored.iloc[:0]
    pools = dict(iter(scored.groupby(POOL)))
    groups = [pools.get(key, empty) for key in targets_of(tasks)]
    n_right = [int(group["correct"].sum()) for group in groups]
    values = {
        name: [group[name].to_numpy() for group in groups]
        for name in ("correct_size", "correct_pixels")
    }
    votes = _Subsamples(scored, tasks)
    parts = []
    for n in n_predictions:
        at_n = full.copy()
        pass_n = [pass_at_k(len(group), c, n) for group, c in zip(groups, n_right)]
        at_n["pass_n"] = pass_n
        for name, of_outputs in values.items():
            at_n[f"best_{name}"] = [expected_best(v, n) for v in of_outputs]
        shares = votes.shares(n, n_subsamples, np.random.default_rng([seed, n]))
        for k, share in zip(VOTES, shares):
            at_n[f"vote_{k}"] = np.array(pass_n) * (1.0 if n <= k else share)
        part = bootstrap_interval(at_n, average=average, seed=seed)
        parts.append(part.rename_axis("metric").reset_index().assign(n=n))
    return pd.concat(parts, ignore_index=True)[["metric", "n", "value", "low", "high"]]


class _Subsamples:
    """Votes over random subsets of every pool at once, on arrays instead of tables."""

    def __init__(self, scored: pd.DataFrame, tasks: dict[str, Task]) -> None:
        targets = targets_of(tasks)
        number = {key: i for i, key in enumerate(targets)}
        self.n_outputs = len(targets)
        self.pool = np.array([number[key] for key in zip(scored["task_id"], scored["test_index"])])
        position = scored.groupby(POOL).cumcount().to_numpy()  # of each row within its pool
        self.position = position[np.argsort(self.pool, kind="stable")]  # with the pools in order
        valid = scored["grid"].notna().to_numpy()
        candidates = scored[valid].groupby([*POOL, "grid"])  # sorted: in a pool, by grid
        self.candidate = np.full(len(scored), -1)
        self.candidate[valid] = candidates.ngroup()
        keys = list(candidates.groups)
        self.pool_of = np.array([number[key[:2]] for key in keys], dtype=int)
        right = {(*key, format_grid(grid)): number[key] for key, grid in targets.items()}
        self.right = np.full(self.n_outputs, -1)  # the right candidate of each output
        for c, key in enumerate(keys):
            if key in right:
                self.right[right[key]] = c
        logprob = (scored["cumulative_logprob"] / scored["n_tokens"]).to_numpy(dtype=float)
        self.has_logprob = ~np.isnan(logprob)
        self.logprob = np.where(self.has_logprob, logprob, 0.0)

    def shares(self, n: int, n_subsamples: int, rng: np.random.Generator) -> np.ndarray:
        """Shape (len(VOTES), n_outputs): the share of the passing subsets that the vote solves."""
        hits, passes = np.zeros((len(VOTES), self.n_outputs)), np.zeros(self.n_outputs)
        if n >= self.position.max() + 1:
            n_subsamples = 1  # every subset is the whole pool
        for _ in range(n_subsamples):
            rank = self._rank_of_right(n, rng)
            passes += rank > 0
            hits += [(rank > 0) & (rank <= k) for k in VOTES]
        return hits / np.maximum(passes, 1)

    def _rank_of_right(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Rank by "votes" of the right candidate in one random subset; 0 where it is not in."""
        order = np.lexsort((rng.random(len(self.pool)), self.pool))
        chosen = order[self.position < n]
        chosen = chosen[self.candidate[chosen] >= 0]
        c, size = self.candidate[chosen], len(self.pool_of)
        votes = np.bincount(c, minlength=size)
        known = np.bincount(c, weights=self.has_logprob[chosen], minlength=size)
        total = np.bincount(c, weights=self.logprob[chosen], minlength=size)
        mean = np.where(known > 0, total / np.maximum(known, 1), -np.inf)
        right = self.right[self.pool_of]  # for each candidate: the right one of its pool
        ahead = (votes > votes[right]) | (
            (votes == votes[right])
            & ((mean > mean[right]) | ((mean == mean[right]) & (np.arange(size) < right)))
        )
        ahead &= (right >= 0) & (votes > 0)
        rank = 1 + np.bincount(self.pool_of[ahead], minlength=self.n_outputs)
        present = (self.right >= 0) & (votes[self.right] > 0) if size else False
        return np.where(present, rank, 0)
