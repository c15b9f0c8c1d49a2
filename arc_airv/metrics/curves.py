"""Metrics against the number of predictions: how much more asking brings.

The value at n is the expectation over all subsets of n of an output's N predictions, drawn without
replacement: exact where a closed form exists, estimated from seeded subsamples for the votes.
"""

import numpy as np
import pandas as pd

from arc_airv.metrics.outputs import average_pools, bootstrap_interval
from arc_airv.metrics.solutions import SIZES, find_right, number_outputs, score_predictions
from arc_airv.tasks import Task, check_count
from arc_airv.vote.candidates import Pools, index_pools, reply_logprob

VOTES = (1, 2)  # the curves vote_1 and vote_2
BEST_OF = {"pass_n": "correct", **{f"best_{name}": name for name in SIZES}}  # the best of what


def metric_curves(
    predictions: pd.DataFrame | Pools,
    tasks: dict[str, Task],
    *,
    n_predictions: list[int] | None = None,
    average: str = "task",
    n_subsamples: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """Compute metrics against the number of predictions per test output.

    Parameters
    ----------
    n_predictions : list of int, optional
        Where to evaluate; by default 1, 2, 4, ... and the size of the largest pool. An output with
        fewer predictions counts with all it has.
    average : {"task", "output", "all"}, default "task"
        "all" takes the worst of the outputs' expectations, which is at least the expectation of
        the worst.
    n_subsamples : int, default 20
        Random orders of every pool for vote_1 and vote_2 (by the method "votes"); the subset of n
        is the first n of an order, so that the points of a curve share their luck.

    Returns
    -------
    DataFrame
        Columns metric, n, value, low, high: the interval is a 95% bootstrap over tasks.

    Raises
    ------
    ValueError
        If there are no predictions, or a number is no integer from 1.

    Notes
    -----
    accuracy, correct_size, correct_pixels and unanswered do not depend on n. pass_n is
    `arc_airv.metrics.pass_at_k`. Of N values in ascending order, the i-th (from 1) is the best of
    ``C(i - 1, n - 1)`` of the ``C(N, n)`` subsets, which gives the best of n. vote_k is the
    exact pass_n times the share of the subsamples holding the right grid in which it is among the
    first k: never above pass_n, and exact for n <= k.
    """
    pools = index_pools(predictions)
    scored = score_predictions(pools, tasks)
    full = average_pools(scored, tasks).drop(columns="random_2")
    largest = int(full["n_predictions"].max())
    if largest == 0:
        raise ValueError("no predictions to draw a curve of")
    if n_predictions is None:
        n_predictions = sorted({2**i for i in range(largest.bit_length())} | {largest})
    if not len(n_predictions):
        raise ValueError("n_predictions must hold at least one number")
    for n in n_predictions:
        check_count("each of n_predictions", n)
    check_count("n_subsamples", n_subsamples)
    output = number_outputs(scored, tasks)
    best = _expected_best(scored[list(BEST_OF.values())], output, len(full), n_predictions)
    votes = _Subsamples(pools, tasks, n_subsamples, seed)
    parts = []
    for i, n in enumerate(n_predictions):
        at_n = full.assign(**dict(zip(BEST_OF, best[i])))
        for k, share in zip(VOTES, votes.shares(n)):
            at_n[f"vote_{k}"] = at_n["pass_n"] * (1.0 if n <= k else share)
        part = bootstrap_interval(at_n, average=average, seed=seed)
        parts.append(part.rename_axis("metric").reset_index().assign(n=n))
    return pd.concat(parts, ignore_index=True)[["metric", "n", "value", "low", "high"]]


def _chance_of_best(size: int, n: int) -> np.ndarray:
    """Compute the chance of each of `size` ascending values to be the maximum of n drawn.

    That of the i-th (from 0) is ``C(i, n - 1) / C(size, n)``: n / size for the last, and each is
    ``(i - n + 1) / i`` times the one above, so that it takes no large binomial.
    """
    i = np.arange(size - 1, 0, -1)
    ratios = np.concatenate([[n / size], np.maximum(i - n + 1, 0) / i])
    return np.cumprod(ratios)[::-1]


def _expected_best(
    table: pd.DataFrame, output: np.ndarray, n_outputs: int, numbers: list[int]
) -> np.ndarray:
    """Compute the expected best of n of each column's values of every output.

    Shape (len(numbers), n_columns, n_outputs); 0 for an output that has no value.
    """
    columns = [table[name].to_numpy() for name in table]
    values = np.array([column[np.lexsort((column, output))] for column in columns])
    sizes = np.bincount(output, minlength=n_outputs)
    start, result = np.cumsum(sizes) - sizes, np.zeros((len(numbers), len(columns), n_outputs))
    for size in np.unique(sizes[sizes > 0]).tolist():  # all pools of one size at once
        outputs = np.flatnonzero(sizes == size)
        ascending = values[:, start[outputs][:, None] + np.arange(size)]
        for best, n in zip(result, numbers):
            best[:, outputs] = ascending @ _chance_of_best(size, min(n, size))
    return result


class _Subsamples:
    """Votes over random subsets of every pool at once; only pools with the right grid matter."""

    def __init__(self, pools: Pools, tasks: dict[str, Task], n_subsamples: int, seed: int) -> None:
        right = find_right(pools.candidates, tasks)
        passes = np.bincount(pools.pool_of[right], minlength=len(pools.pools)) > 0
        kept = passes[pools.pool_of]  # candidates of those pools
        self.n_outputs = sum(len(task.test) for task in tasks.values())
        self.output = number_outputs(pools.pools[passes], tasks)
        self.pool_of = (np.cumsum(passes) - 1)[pools.pool_of[kept]]
        self.right = np.flatnonzero(right[kept])  # the right candidate of each pool

        rows = np.flatnonzero(passes[pools.pool])
        logprob = reply_logprob(pools, per_token=True)
        # One order of the rows, whatever order they came in.
        rows = rows[np.lexsort((logprob[rows], pools.candidate[rows], pools.pool[rows]))]
        candidate = pools.voter[rows]
        self.candidate = np.where(candidate < 0, -1, (np.cumsum(kept) - 1)[candidate])
        self.has_logprob = ~np.isnan(logprob[rows])
        self.logprob = np.where(self.has_logprob, logprob[rows], 0.0)
        sizes = np.bincount(pools.pool[rows], minlength=len(passes))[passes]
        ends = np.cumsum(sizes)
        self.largest = sizes.max(initial=0)
        # The places of the rows of each pool in random orders, 0, 1, ...
        rng = np.random.default_rng(seed)
        self.places = np.empty((n_subsamples, len(rows)), dtype=np.int32)
        counted = np.arange(self.largest, dtype=np.int32)
        for places in self.places:
            drawn = rng.random(len(rows))
            for start, end in zip((ends - sizes).tolist(), ends.tolist()):
                order = np.argsort(drawn[start:end])
                places[start:end][order] = counted[: end - start]

    def shares(self, n: int) -> np.ndarray:
        """Return the share of the passing subsets that the vote solves: (len(VOTES), n_outputs)."""
        # If every subset is the whole pool, one is enough.
        places = self.places[:1] if n >= self.largest else self.places
        ranks = np.array([self._rank_of_right(np.flatnonzero(p < n)) for p in places])
        passes = (ranks > 0).sum(axis=0)
        hits = np.array([((ranks > 0) & (ranks <= k)).sum(axis=0) for k in VOTES])
        shares = np.zeros((len(VOTES), self.n_outputs))
        shares[:, self.output] = hits / np.maximum(passes, 1)
        return shares

    def _rank_of_right(self, chosen: np.ndarray) -> np.ndarray:
        """Rank by "votes" of each pool's right candidate among the chosen rows; 0 if not there."""
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
        rank = 1 + np.bincount(self.pool_of[ahead & (votes > 0)], minlength=len(self.right))
        return np.where(votes[self.right] > 0, rank, 0)
