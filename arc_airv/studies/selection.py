"""Studies of selection on stored pools: selectors side by side, fitted ones, calibration."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from arc_airv.metrics.outputs import add_votes, average_outputs, bootstrap_interval, score_outputs
from arc_airv.metrics.solutions import find_right, solutions_of
from arc_airv.tasks import AVERAGES, Task, check_count
from arc_airv.vote.candidates import POOL, Pools, candidate_features, index_pools
from arc_airv.vote.filters import FILTERS, Filter, rule_out
from arc_airv.vote.rank import TIES, rank_by_score, rank_candidates
from arc_airv.vote.selectors import Selector

MAX_STEPS, TOLERANCE = 100, 1e-10


def compare_selectors(
    predictions: pd.DataFrame | Pools,
    tasks: dict[str, Task],
    selectors: Mapping[str, Mapping[str, Any] | pd.DataFrame],
    *,
    average: str = "task",
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare selectors on the same pools, each with the first.

    Parameters
    ----------
    selectors : mapping of str to dict or DataFrame
        By a name of its own: options of `arc_airv.vote.rank_candidates`, or a ranking of the
        candidates as it gives it.

    Returns
    -------
    DataFrame
        Indexed by name, with the columns vote_1, vote_2, voting_accuracy, gap_closed, gain, low and
        high; gap_closed is the share of the way from two predictions drawn at random to the best
        possible, ``(vote_2 - random_2) / (pass_n - random_2)`` (NaN if there is no gap). The
        attributes ``pass_n`` and ``random_2`` (``frame.attrs``) are those of the pools.

    Raises
    ------
    ValueError
        If there is no selector.
    """
    if not selectors:
        raise ValueError("selectors must name at least one selector, got none")
    pools = index_pools(predictions)
    outputs = score_outputs(pools, tasks)
    limits = average_outputs(outputs, average=average)[["pass_n", "random_2"]]
    hits = {}
    for name, ranked in selectors.items():
        if not isinstance(ranked, pd.DataFrame):
            ranked = rank_candidates(pools, tasks=tasks, **ranked)
        hits[name] = add_votes(outputs[[*POOL, "pass_n"]], ranked, tasks)
    compared = compare_outputs(hits, average=average, n_resamples=n_resamples, seed=seed)
    compared = compared.drop(columns="pass_n")
    gap = limits["pass_n"] - limits["random_2"]
    compared.insert(3, "gap_closed", (compared["vote_2"] - limits["random_2"]) / (gap or np.nan))
    compared.attrs = limits.to_dict()
    return compared


def compare_halves(
    predictions: pd.DataFrame,
    tasks: dict[str, Task],
    selectors: Mapping[str, Mapping[str, Any] | pd.DataFrame],
    *,
    seed: int = 0,
    **options: Any,
) -> pd.DataFrame:
    """Compare selectors on two halves of the tasks, cut at random.

    The best of many selectors looks better than it is on the pools that it was chosen on. One that
    is ahead by more than chance on the first half, and ahead on the second, holds.

    Parameters
    ----------
    selectors : mapping of str to dict or DataFrame
        As of `compare_selectors`.
    **options
        As of `compare_selectors`.

    Returns
    -------
    DataFrame
        Indexed by name, with the columns gain, low, high of the first half, gain_2, low_2, high_2
        of the second, and holds: ``low > 0 and gain_2 > 0``.

    Raises
    ------
    ValueError
        If there is no selector, or there are fewer than two tasks.
    """
    if len(tasks) < 2:
        raise ValueError(f"two halves need at least 2 tasks, got {len(tasks)}")
    order = np.random.default_rng(seed).permutation(sorted(tasks)).tolist()
    gains = []
    for half in (order[: len(order) // 2], order[len(order) // 2 :]):

        def of_half(table: pd.DataFrame, half: list[str] = half) -> pd.DataFrame:
            return table[table["task_id"].isin(half)]

        ranked = {
            name: of_half(way) if isinstance(way, pd.DataFrame) else way
            for name, way in selectors.items()
        }
        some = {task_id: tasks[task_id] for task_id in half}
        compared = compare_selectors(of_half(predictions), some, ranked, seed=seed, **options)
        gains.append(compared[["gain", "low", "high"]])
    table = gains[0].join(gains[1].add_suffix("_2"))
    return table.assign(holds=(table["low"] > 0) & (table["gain_2"] > 0))


def compare_outputs(
    outputs: Mapping[str, pd.DataFrame], *, average: str, **resamples: int
) -> pd.DataFrame:
    """Average the outputs of each selector or run, with its gain over the first."""
    rows, first = {}, next(iter(outputs.values()))
    for name, of_name in outputs.items():
        gain = bootstrap_interval(of_name, baseline=first, average=average, **resamples)
        means = average_outputs(of_name, average=average)
        rows[name] = {**means, **gain.loc["vote_2"].rename({"value": "gain"})}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(columns=AVERAGES[average])


def cross_fit(
    predictions: pd.DataFrame | Pools,
    tasks: dict[str, Task],
    *,
    n_folds: int = 5,
    seed: int = 0,
    features: Sequence[str] | None = None,
    scores: pd.DataFrame | None = None,
    penalty: float = 1.0,
) -> pd.DataFrame:
    """Rank every pool by a selector that was fitted on the pools of other tasks.

    So a learnt selector can be compared on the very pools that there are, and no task's solution
    has a say in how its own candidates are ranked. The tasks are cut into `n_folds` parts at
    random, of which each is ranked by `fit_selector` of the others.

    Raises
    ------
    ValueError
        If there are fewer tasks than folds or fewer than two folds, or some folds teach nothing.
    """
    check_count("n_folds", n_folds)
    check_count("seed", seed, least=0)
    if not 2 <= n_folds <= len(tasks):
        raise ValueError(f"n_folds must be 2 to the {len(tasks)} tasks, got {n_folds}")
    order = np.random.default_rng(seed).permutation(sorted(tasks))
    lesson = _Lesson(predictions, tasks, features, scores)
    score = np.empty(len(lesson.table))
    for fold in np.array_split(order, n_folds):
        held_out = lesson.pools.pools["task_id"].isin(fold).to_numpy()
        asked = held_out[lesson.pools.pool_of]
        score[asked] = lesson.fit(~held_out, penalty).score(lesson.table[asked])
    return rank_by_score(lesson.table.assign(score=score))


def calibration(confidence: np.ndarray, right: np.ndarray, *, n_bins: int = 10) -> pd.DataFrame:
    """Compare confidences with the share that is right of what is believed so.

    Parameters
    ----------
    confidence, right : array-like of shape (n,)
        Confidences in [0, 1], such as the share of votes of the first candidate of each pool; and
        bools.

    Returns
    -------
    DataFrame
        One row a bin that is not empty, of `n_bins` of equal width: low, high (the bin holds
        low < confidence <= high; the first one low, too), n, confidence (mean), right (share).
        ``frame.attrs["error"]`` is the expected calibration error, the mean over all n of
        |right - confidence| of their bins (Naeini et al., "Obtaining well calibrated probabilities
        using Bayesian binning", 2015).

    Raises
    ------
    ValueError
        If a confidence is not in [0, 1], or `n_bins` no number of bins.
    """
    check_count("n_bins", n_bins)
    confidence, right = np.asarray(confidence, dtype=float), np.asarray(right, dtype=float)
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("every confidence must be in [0, 1]")
    edges = np.linspace(0, 1, n_bins + 1)
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


def fit_selector(
    predictions: pd.DataFrame | Pools,
    tasks: dict[str, Task],
    *,
    features: Sequence[str] | None = None,
    scores: pd.DataFrame | None = None,
    penalty: float = 1.0,
) -> Selector:
    """Learn the weights of features from pools with known solutions.

    Do so on tasks whose results are not reported, such as ARC's training tasks, with predictions by
    the model and in the number to be used.

    Parameters
    ----------
    features : sequence of str, optional
        By default log_votes, mean_token_logprob and max_reply_logprob, and with `scores` also
        mean_score_logprob.
    penalty : float, default 1
        Factor of the squared weights; above 0. A weight counts in units of one over the standard
        deviation of its feature within the pools, the likelihood in nats a pool.

    Returns
    -------
    Selector
        Its scores are log-odds (nats): of two candidates of a pool of which one is right, the
        first is exp(difference) times as likely to be it.

    Raises
    ------
    ValueError
        If no pool holds the right grid and another candidate, a feature is unknown, or `penalty`
        is not above 0.

    Notes
    -----
    A conditional logit (McFadden, "Conditional logit analysis of qualitative choice behavior",
    1974): in a pool p whose right candidate is r(p),

        P(r(p)) = exp(w . x_r(p)) / sum over the candidates s of p of exp(w . x_s),

    and w maximizes the sum over pools of ln P(r(p)) less penalty / 2 * |w|^2. The problem is
    concave and is solved by Newton's method, so the result is the same every time. Pools without
    the right grid say nothing, nor do candidates with an unknown feature.
    """
    lesson = _Lesson(predictions, tasks, features, scores)
    return lesson.fit(np.ones(len(lesson.pools.pools), dtype=bool), penalty)


class _Lesson:
    """Pools with known solutions: the features of their candidates, and which are right."""

    def __init__(
        self,
        predictions: pd.DataFrame | Pools,
        tasks: dict[str, Task],
        features: Sequence[str] | None,
        scores: pd.DataFrame | None,
    ) -> None:
        if features is None:
            features = ["log_votes", "mean_token_logprob", "max_reply_logprob"]
            features += ["mean_score_logprob"] if scores is not None else []
        if not len(features):
            raise ValueError("features must name at least one feature, got none")
        self.features = list(dict.fromkeys(features))
        self.pools = index_pools(predictions)
        known = list(dict.fromkeys([*TIES, *self.features]))
        self.table = candidate_features(self.pools, features=known, scores=scores)
        self.right = find_right(self.pools.candidates, tasks)

    def fit(self, taught: np.ndarray, penalty: float) -> Selector:
        """Fit the weights on some of the pools: `taught`, of shape (n_pools,), dtype bool."""
        if not penalty > 0:
            raise ValueError(f"penalty must be above 0, got {penalty}")
        pool_of = self.pools.pool_of
        x = self.table[self.features].to_numpy(dtype=float)
        kept = np.isfinite(x).all(axis=1) & taught[pool_of]
        size = np.bincount(pool_of[kept], minlength=len(taught))
        hits = np.bincount(pool_of[kept & self.right], minlength=len(taught))
        informs = (hits == 1) & (size > 1)
        if not informs.any():
            lack = f"the right grid and another candidate with known features {self.features}"
            raise ValueError(f"nothing to learn from: of {taught.sum()} pools none holds {lack}")
        kept &= informs[pool_of]
        weights = _fit_logit(x[kept], pool_of[kept], self.right[kept], penalty)
        about = f"fitted on {informs.sum()} of {taught.sum()} pools, penalty {penalty:g}"
        return Selector(dict(zip(self.features, weights.tolist())), about=about)


def _fit_logit(x: np.ndarray, pool: np.ndarray, right: np.ndarray, penalty: float) -> np.ndarray:
    """Fit weights of the features x (candidates, features); one candidate a pool is right."""
    first = np.flatnonzero(np.diff(pool, prepend=-1))
    local = np.repeat(np.arange(len(first)), np.diff(first, append=len(pool)))
    x = x - x[right][local]  # the right one of each pool at the origin
    center = np.add.reduceat(x, first) / np.bincount(local)[:, None]
    spread = np.sqrt(np.mean((x - center[local]) ** 2, axis=0))
    spread[spread == 0] = 1.0
    x = x / spread

    def likelihood(w: np.ndarray) -> tuple[float, np.ndarray]:
        score = x @ w
        total = np.logaddexp.reduceat(score, first)
        return -total.sum() - penalty / 2 * w @ w, np.exp(score - total[local])

    w = np.zeros(x.shape[1])
    value, chance = likelihood(w)
    for _ in range(MAX_STEPS):
        mean = np.add.reduceat(chance[:, None] * x, first)
        gradient = -mean.sum(axis=0) - penalty * w
        curvature = (chance[:, None] * x).T @ x - mean.T @ mean + penalty * np.eye(len(w))
        step = np.linalg.solve(curvature, gradient)
        gain = gradient @ step
        while (new := likelihood(w + step))[0] < value:
            step = step / 2
        w, (value, chance) = w + step, new
        if gain < TOLERANCE * (1 - value):  # the last step was in the noise
            break
    return w / spread


def filter_errors(
    tasks: dict[str, Task], *, filters: Sequence[str | Filter] = tuple(FILTERS)
) -> pd.DataFrame:
    """Count the solutions of the tasks themselves that each filter rules out.

    Returns
    -------
    DataFrame
        Indexed by filter, and "any" for all together, with the columns outputs (the number of test
        outputs), wrong (that of solutions ruled out), rate (wrong / outputs) and task_ids (the
        tasks concerned).
    """
    solutions = solutions_of(tasks)
    wrong = rule_out(solutions, tasks, filters=filters)
    wrong["any"] = wrong.any(axis=1)
    ids = [list(solutions["task_id"][hit].unique()) for _, hit in wrong.items()]
    counts = {"outputs": len(wrong), "wrong": wrong.sum(), "rate": wrong.mean(), "task_ids": ids}
    return pd.DataFrame(counts)
