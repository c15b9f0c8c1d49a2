"""Metrics of every test output, their averages over the data set, and their intervals."""

from functools import lru_cache
from math import comb
from typing import Any

import numpy as np
import pandas as pd

from arc_airv.metrics.solutions import SCORES, SIZES, number_outputs, right_ranks, score_predictions
from arc_airv.tasks import AVERAGES, Task, average_by_task, check_count, outputs_of
from arc_airv.vote.candidates import POOL, Pools, index_pools
from arc_airv.vote.rank import rank_candidates


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the chance that k of n predictions, c of them right, hold a right one.

    They are drawn without replacement: ``1 - C(n - c, k) / C(n, k)``, the unbiased estimator of
    Chen et al., "Evaluating Large Language Models Trained on Code", 2021. A k above n counts as n.

    Examples
    --------
    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if not 0 <= c <= n or k < 1:
        raise ValueError(f"need 0 <= c <= n and k >= 1, got n={n}, c={c}, k={k}")
    k = min(k, n)
    return 1.0 - comb(n - c, k) / comb(n, k)


def score_outputs(
    predictions: pd.DataFrame | Pools, tasks: dict[str, Task], **options: Any
) -> pd.DataFrame:
    """Compute the metrics of every test output of every task, from all its N predictions.

    Parameters
    ----------
    **options
        Options of `arc_airv.vote.rank_candidates` (method, scores, filters) for vote_1 and vote_2.

    Returns
    -------
    DataFrame
        One row a test output, in the order of `tasks`: task_id, test_index, n_predictions, and

        accuracy, correct_size, correct_pixels
            Means over the N predictions.
        best_correct_size, best_correct_pixels, pass_n
            The best of the N; 1 if any is right.
        unanswered
            Fraction without a valid grid.
        random_2
            Expected pass of two drawn at random, without replacement.
        vote_1, vote_2
            1 if the right grid is among the first 1 or 2 candidates.
    """
    pools = index_pools(predictions)
    outputs = average_pools(score_predictions(pools, tasks), tasks)
    return add_votes(outputs, rank_candidates(pools, tasks=tasks, **options), tasks)


def average_pools(scored: pd.DataFrame, tasks: dict[str, Task]) -> pd.DataFrame:
    """Compute the columns of `score_outputs` that need no vote, from `score_predictions`."""
    outputs = pd.DataFrame(outputs_of(tasks), columns=POOL)
    groups = scored[SCORES].groupby(number_outputs(scored, tasks))
    tables = groups.size(), groups.sum(), groups.mean(), groups.max()
    n, total, mean, best = (table.reindex(outputs.index, fill_value=0) for table in tables)
    return outputs.assign(
        n_predictions=n,
        accuracy=mean["correct"],
        **mean[SIZES],
        **best[SIZES].add_prefix("best_"),
        pass_n=best["correct"],
        unanswered=1.0 - mean["answered"],
        random_2=[pass_at_k(size, int(right), 2) for size, right in zip(n, total["correct"])],
    )


def add_votes(outputs: pd.DataFrame, ranked: pd.DataFrame, tasks: dict[str, Task]) -> pd.DataFrame:
    """Add vote_1 and vote_2 of a ranking to a table of the outputs in the order of `tasks`."""
    rank = right_ranks(ranked, tasks)["rank"].to_numpy()
    return outputs.assign(**{f"vote_{k}": (rank <= k).astype(float) for k in (1, 2)})


def average_outputs(outputs: pd.DataFrame, *, average: str = "task") -> pd.Series:
    """Average every metric of the outputs over the data set.

    Parameters
    ----------
    average : {"task", "output", "all"}, default "task"
        "task", Kaggle's: the mean over the outputs of each task, then over tasks. "output": the
        mean over all outputs. "all": the worst output of each task, then the mean over tasks. See
        `arc_airv.tasks.average_by_task`.

    Returns
    -------
    Series
        One value a metric, and voting_accuracy = vote_2 / pass_n (NaN if pass_n is 0). Its name
        says which average it is.
    """
    return _means(outputs, average).iloc[0].rename(AVERAGES[average])


def evaluate(
    predictions: pd.DataFrame | Pools,
    tasks: dict[str, Task],
    *,
    average: str = "task",
    **options: Any,
) -> pd.Series:
    """Average every metric of the predictions: `average_outputs` of `score_outputs`."""
    return average_outputs(score_outputs(predictions, tasks, **options), average=average)


def bootstrap_interval(
    outputs: pd.DataFrame,
    *,
    baseline: pd.DataFrame | None = None,
    average: str = "task",
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compute value, low and high of every metric: `average_outputs`, with a bootstrap interval.

    It is the percentile one over tasks, since the outputs of one task are not independent.

    Parameters
    ----------
    baseline : DataFrame, optional
        The outputs of the same tasks by another run or selector, with the same metrics. If given,
        the values and intervals are of the gain over it, both on the same resampled tasks.

    Raises
    ------
    ValueError
        If there are no outputs, or the baseline is of other tasks.
    """
    means = _means(outputs, average, n_resamples, seed)
    if baseline is not None:
        if set(baseline["task_id"]) != set(outputs["task_id"]):
            raise ValueError("the baseline must be of the same tasks as the outputs")
        means = means - _means(baseline, average, n_resamples, seed)
    low, high = means.iloc[1:].quantile([(1 - level) / 2, (1 + level) / 2]).to_numpy()
    table = pd.DataFrame({"value": means.iloc[0], "low": low, "high": high})
    return table.rename_axis(columns=AVERAGES[average])


def _means(outputs: pd.DataFrame, average: str, n: int = 0, seed: int = 0) -> pd.DataFrame:
    """Average over the data set, in the first row, and over n resamples of its tasks."""
    if outputs.empty:
        raise ValueError("no test outputs to average over")
    columns = outputs.columns.difference(["task_id", "test_index", "n_predictions"], sort=False)
    sign = np.where(columns == "unanswered", -1.0, 1.0)  # the only one that is worse if larger
    task, ids = pd.factorize(outputs["task_id"], sort=True)
    values, weights = average_by_task(sign * outputs[columns].to_numpy(float), task, average)
    draws = _draws(len(ids), n, seed)
    means = draws @ (weights[:, None] * values) / (draws @ weights)[:, None]
    means = pd.DataFrame(sign * means + 0.0, columns=columns)  # + 0.0: no share is -0.0
    if {"vote_2", "pass_n"} <= set(columns):
        # A resample in which nothing can be voted for says nothing of the vote.
        means["voting_accuracy"] = means["vote_2"] / means["pass_n"].where(means["pass_n"] > 0)
    return means


@lru_cache(maxsize=2)  # the points of a curve share them
def _draws(n_tasks: int, n_resamples: int, seed: int) -> np.ndarray:
    """Count each task in the data set, once, and in each resample: (1 + n_resamples, n_tasks)."""
    check_count("n_resamples", n_resamples, least=0)
    check_count("seed", seed, least=0)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n_tasks, np.full(n_tasks, 1 / n_tasks), size=n_resamples)
    return np.concatenate([np.ones((1, n_tasks)), drawn])
