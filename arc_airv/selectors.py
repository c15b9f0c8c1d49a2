"""Selectors: one family of scores for candidates, its named members, and how to fit one.

The score of a candidate s is a weighted sum of its features,

    score(s) = sum over k of weight_k * feature_k(s),

see `arc_airv.pools.candidate_features`. Below, n is the number of predictions of s (votes), l_i the
log-probability of reply i that gave it (nats), L_i the tokens of that reply, and a_j the
log-probability of s under the view j that re-scored it (nats), for j = 1 ... m.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from arc_airv.compare import find_right
from arc_airv.pools import check_features, features_of, index_pools
from arc_airv.records import write_atomically
from arc_airv.tasks import Task

MAX_STEPS, TOLERANCE = 100, 1e-10


@dataclass(frozen=True)
class Selector:
    """A weighted sum of features of a candidate; the higher, the better.

    Attributes
    ----------
    weights : dict of str to float
        By the name of the feature. One of 0 is as good as left out.
    then : tuple of str, default ()
        Features that order equal scores, the first that differs decides. After them, as always:
        votes, mean log-probability per token, grid.
    about : str
        The formula, or what the weights were fitted on.

    Raises
    ------
    ValueError
        If there is no weight, one is not finite, or a feature is unknown.

    Examples
    --------
    >>> Selector({"votes": 1, "mean_score_logprob": 0.5}).features
    ['votes', 'mean_score_logprob']
    """

    weights: Mapping[str, float]
    then: tuple[str, ...] = ()
    about: str = ""

    def __post_init__(self) -> None:
        weights = {str(name): float(weight) for name, weight in dict(self.weights).items()}
        if not weights or not np.isfinite(list(weights.values())).all():
            raise ValueError(f"a selector needs finite weights, got {weights}")
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "then", tuple(self.then))
        check_features([*weights, *self.then], has_scores=True)

    @property
    def features(self) -> list[str]:
        """What it needs to know of a candidate."""
        used = [name for name, weight in self.weights.items() if weight]
        return list(dict.fromkeys([*used, *self.then]))

    def score(self, features: pd.DataFrame) -> np.ndarray:
        """The score of each row of `arc_airv.pools.candidate_features`.

        Returns
        -------
        ndarray of shape (n_candidates,), dtype float64
            Minus infinity where a feature with a weight is unknown: behind what is known.
        """
        total = np.zeros(len(features))
        for name, weight in self.weights.items():
            if weight:
                total += weight * features[name].to_numpy(dtype=float)
        return np.where(np.isfinite(total), total, -np.inf)

    def save(self, path: str | Path) -> Path:
        """Write it as JSON; `Selector.load` reads it back."""
        write_atomically(path, json.dumps(asdict(self), indent=2))
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Selector:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            If the file does not hold a selector; the message names it.
        """
        try:
            return cls(**json.loads(Path(path).read_text("utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: not a selector ({error})") from None


PRESETS = {
    "votes": Selector(
        {"votes": 1},
        ("mean_token_logprob",),
        about="n, then mean_i l_i / L_i (ironbar/arc24, second voting rule)",
    ),
    "logprob": Selector(
        {"max_reply_logprob": 1},
        about="max_i l_i (the likeliest reply: max_gen_prob of the Product of Experts paper)",
    ),
    "sum_of_probabilities": Selector(
        {"logsumexp_reply_logprob": 1},
        about="ln sum_i exp(l_i) (the probability that the replies of a candidate add up to)",
    ),
    "votes_times_probability": Selector(
        {"log_votes": 1, "mean_reply_logprob": 1},
        about="ln n + mean_i l_i (n times the geometric mean of the probability of its replies)",
    ),
    "product_of_experts": Selector(
        {"mean_score_logprob": 1},
        about="mean_j a_j (Product of Experts; ranks as its sum_j a_j, "
        "and fairly if a candidate lacks a view)",
    ),
    "votes_plus_score": Selector(
        {"votes": 1, "mean_score_logprob": 1},
        about="n + mean_j a_j (NVARC, kgmon)",
    ),
    "all_logprobs": Selector(
        {"sum_score_logprob": 1, "n_scores": 3, "sum_reply_logprob": 1, "votes": 3},
        about="sum_j (a_j + 3) + sum_i (l_i + 3) (the ARChitects 2024, mul_all_prob; "
        "NVARC, probmul_3)",
    ),
}


def find_selector(weights: str | Mapping[str, float] | Selector) -> Selector:
    """A selector from the name of a preset, from weights, or as it is.

    Raises
    ------
    ValueError
        If there is no such preset.
    """
    if isinstance(weights, Selector):
        return weights
    if isinstance(weights, Mapping):
        return Selector(weights)
    if not isinstance(weights, str) or weights not in PRESETS:
        raise ValueError(
            f"weights must be a Selector, a dict of weights or one of {sorted(PRESETS)}, "
            f"got {weights!r}"
        )
    return PRESETS[weights]


def fit_selector(
    predictions: pd.DataFrame,
    tasks: dict[str, Task],
    *,
    features: Sequence[str] | None = None,
    scores: pd.DataFrame | None = None,
    penalty: float = 1.0,
) -> Selector:
    """Learn the weights of features from pools with known solutions.

    Do so on tasks whose results are not reported, such as ARC's training tasks.

    Parameters
    ----------
    predictions : DataFrame
        Of the tasks to learn from, by the model and the number of predictions to be used.
    tasks : dict of str to Task
        With their test outputs.
    features : sequence of str, optional
        See `arc_airv.pools.candidate_features`; by default log_votes, mean_token_logprob and
        max_reply_logprob, and with `scores` also mean_score_logprob.
    scores : DataFrame, optional
        Re-scores, see `arc_airv.pools.candidate_features`.
    penalty : float, default 1
        Of the squared weights; above 0. A weight counts in units of one over the standard deviation
        of its feature within the pools, the likelihood in nats a pool.

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
    if not penalty > 0:
        raise ValueError(f"penalty must be above 0, got {penalty}")
    if features is None:
        features = ["log_votes", "mean_token_logprob", "max_reply_logprob"]
        features += ["mean_score_logprob"] if scores is not None else []
    features = list(dict.fromkeys(features))
    if not features:
        raise ValueError("features must name at least one feature, got none")
    check_features(features, has_scores=scores is not None)
    pools = index_pools(predictions)
    right = find_right(pools, tasks)
    x = features_of(pools, predictions, features, scores)[features].to_numpy(dtype=float)
    kept = np.isfinite(x).all(axis=1)
    n_pools = len(pools.pools)
    size = np.bincount(pools.pool_of[kept], minlength=n_pools)
    hits = np.bincount(pools.pool_of[kept & right], minlength=n_pools)
    informs = (hits == 1) & (size > 1)
    if not informs.any():
        raise ValueError(
            f"nothing to learn from: of {n_pools} pools none holds the right grid and another "
            f"candidate with known features {features}"
        )
    kept &= informs[pools.pool_of]
    weights = _fit_logit(x[kept], pools.pool_of[kept], right[kept], penalty)
    about = f"fitted on {informs.sum()} of {n_pools} pools, penalty {penalty:g}"
    return Selector(dict(zip(features, weights.tolist())), about=about)


def _fit_logit(x: np.ndarray, pool: np.ndarray, right: np.ndarray, penalty: float) -> np.ndarray:
    """Weights of the features x (candidates, features); one candidate a pool is right."""
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
