"""Selectors: one family of scores for candidates, and its named members.

The score of a candidate s is a weighted sum of its features,

    score(s) = sum over k of weight_k * feature_k(s),

see `arc_airv.vote.candidate_features`. Below, n is the number of predictions of s (votes), l_i the
log-probability of reply i that gave it (nats), L_i the tokens of that reply, and a_j the
log-probability of s under the view j that re-scored it (nats), for j = 1 ... m.
`arc_airv.studies.fit_selector` learns weights.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd

from arc_airv.storage import unique_fields, write_atomically
from arc_airv.vote.candidates import check_features, needs_scores


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
    compose : bool, default False
        As of `arc_airv.vote.candidate_features`.
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
    compose: bool = False
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
        """The features of a candidate that it weighs."""
        used = [name for name, weight in self.weights.items() if weight]
        return list(dict.fromkeys([*used, *self.then]))

    @property
    def needs_scores(self) -> bool:
        """Tell if a feature comes from re-scores."""
        return any(map(needs_scores, self.features))

    def score(self, features: pd.DataFrame) -> np.ndarray:
        """Score each candidate; minus infinity where a feature with a weight is unknown."""
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
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote; a ValueError names a file that holds no selector."""
        try:
            text = Path(path).read_text("utf-8")
            return cls(**json.loads(text, object_pairs_hook=unique_fields))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{path}: not a selector ({error})") from None


METHODS = {
    "votes": Selector(
        {"votes": 1},
        ("mean_token_logprob",),
        about="n, then mean_i l_i / L_i (ironbar/arc24, second voting rule)",
    ),
    "logprob": Selector(
        {"max_reply_logprob": 1},
        about="max_i l_i (the likeliest reply: max_gen_prob of the Product of Experts paper)",
    ),
    "cells": Selector(
        {"shape_votes": 1, "agreement": 1},
        compose=True,
        about="predictions of the shape + share of them that agree, mean over the cells",
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
        {"votes": 1, "mean_score_logprob": 1}, about="n + mean_j a_j (NVARC, kgmon)"
    ),
    "all_logprobs": Selector(
        {"sum_score_logprob": 1, "n_scores": 3, "sum_reply_logprob": 1, "votes": 3},
        about="sum_j (a_j + 3) + sum_i (l_i + 3) (the ARChitects 2024, mul_all_prob; "
        "NVARC, probmul_3)",
    ),
}


def find_selector(method: str | Mapping[str, float] | Selector) -> Selector:
    """Return the selector of a name, of a dict of weights, or the given one."""
    if isinstance(method, Selector):
        return method
    if isinstance(method, Mapping):
        return Selector(method)
    if not isinstance(method, str) or method not in METHODS:
        allowed = f"a Selector, a dict of weights or one of {list(METHODS)}"
        raise ValueError(f"method must be {allowed}, got {method!r}")
    return METHODS[method]
