"""Which outputs are settled: whether more votes would still change their two attempts.

The rule looks at the predictions alone, so it serves a hidden test. Its simulation on a stored pool
compares it with the uniform plan at equal cost. Knows nothing of engines.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from arc_airv.metrics.solutions import find_right, number_outputs
from arc_airv.prompts.encoders import PROMPT_TOO_LONG
from arc_airv.tasks import Task, outputs_of
from arc_airv.vote.candidates import POOL, index_pools, reply_logprob

PRIOR = 0.1  # votes that a candidate, also one not seen yet, is lent beside those it has
TOLERANCE = 0.002  # gain below which an output is settled, in shares of a vote


def unsettled_outputs(
    predictions: pd.DataFrame,
    tasks: dict[str, Task],
    *,
    further: int,
    tolerance: float = TOLERANCE,
) -> pd.DataFrame:
    """The test outputs whose second attempt further predictions may still replace.

    Parameters
    ----------
    predictions : DataFrame
        As `arc_airv.records.read_predictions` gives it.
    tasks : dict of str to Task
        Fixes which outputs there are. Their test outputs are not looked at.
    further : int
        How many more predictions of each output are planned.
    tolerance : float, default 0.002
        An output is settled when its `gain` is at most this; below 0, none is.

    Returns
    -------
    DataFrame
        Columns task_id, test_index, n_predictions, votes_1, votes_2, votes_3 (of the first three
        candidates), overturn (the chance that the second will have fewer votes than the third, or
        than one not seen yet), gain; the largest gain first.

    Raises
    ------
    ValueError
        If `further` is below 1 or a prediction is for an output that `tasks` does not have.

    Notes
    -----
    With n predictions, m further ones and the votes v2 and v3, the second and third candidate get
    a further vote with the chances p = (v + a) / (n + 2 a), a = 0.1. The lead of the third over
    the second after all n + m is then taken as normal, with

        mean      mu = (v3 - v2) + m (p3 - p2)
        variance  s^2 = m (n + 2 a + m) / (n + 2 a + 1) (p2 + p3 - (p2 - p3)^2)

    where the fraction accounts for p being an estimate (as in a Dirichlet-multinomial). With
    z = mu / s,

        overturn  Phi(z)
        gain      p1 min(mu Phi(z) + s phi(z), m p3) / (n + m)

    where m p3 is a bound that holds exactly, and is needed where further votes are rare events.
    The gain is the expected lead where it is positive, as a share of all votes: what the second
    attempt is expected to win by asking on (the knowledge gradient of optimal selection), times
    the chance of the first candidate. It is small where the second candidate is far ahead of the
    third, where neither has or is likely to get many votes, and where the predictions hardly
    agree on anything, which is how tasks look that a model has not understood. An output whose
    prompts do not fit is settled.
    """
    if further < 1:
        raise ValueError(f"further must be at least 1, got {further}")
    outputs = outputs_of(tasks)
    table = pd.DataFrame(outputs, columns=POOL)
    counts = np.zeros((len(outputs), 3), dtype=np.int64)
    n, hopeless = np.zeros(len(outputs), dtype=np.int64), np.zeros(len(outputs), dtype=bool)
    pools = index_pools(predictions)
    if len(predictions):
        rows = number_outputs(pools.pools, tasks)
        n[rows] = np.bincount(pools.pool)
        too_long = (predictions["status"] == PROMPT_TOO_LONG).to_numpy()
        n_too_long = np.bincount(pools.pool, weights=too_long)
        hopeless[rows] = n_too_long == n[rows]
        order = np.lexsort((-pools.votes, pools.pool_of))
        owner = pools.pool_of[order]
        place = np.arange(len(owner)) - np.searchsorted(owner, owner)
        top = place < 3
        counts[rows[owner[top]], place[top]] = pools.votes[order][top]
    table["n_predictions"] = n
    table[["votes_1", "votes_2", "votes_3"]] = counts
    overturn, gain = expected_gain(n, counts, further)
    table["overturn"] = np.where(hopeless, 0.0, overturn)
    table["gain"] = np.where(hopeless, 0.0, gain)
    table = table[table["gain"] > tolerance]
    return table.sort_values(["gain", *POOL], ascending=[False, True, True], ignore_index=True)


def expected_gain(
    n: np.ndarray, votes: np.ndarray, further: np.ndarray | int
) -> tuple[np.ndarray, np.ndarray]:
    """The chance that the third candidate overtakes the second, and the expected gain.

    Parameters
    ----------
    n : array-like of int
        Predictions of each output.
    votes : array-like of int, shape (..., 3)
        Votes of its first three candidates.
    further : array-like of int
        Further predictions of each.

    Returns
    -------
    overturn, gain : ndarray of float
        See `unsettled_outputs` for the formulas.

    Examples
    --------
    Eight predictions and eight to come: the second and the third have 2 votes each, 3 and 1, none.

    >>> overturn, gain = expected_gain([8, 8, 8], [[4, 2, 2], [4, 3, 1], [8, 0, 0]], 8)
    >>> overturn.round(2), gain.round(3)
    (array([0.5 , 0.06, 0.5 ]), array([0.033, 0.002, 0.006]))
    """
    m, known = np.asarray(further, dtype=float), np.asarray(n) + 2 * PRIOR
    first, second, third = np.moveaxis(np.asarray(votes), -1, 0)
    p1, p2, p3 = ((v + PRIOR) / known for v in (first, second, third))
    mean = np.subtract(third, second) + m * (p3 - p2)
    # Without predictions p2 + p3 is 1 and p2 = p3, so the variance is never 0.
    deviation = np.sqrt(m * (known + m) / (known + 1) * (p2 + p3 - (p2 - p3) ** 2))
    z = mean / deviation
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    overturn = _normal_cdf(z)
    lead = np.clip(mean * overturn + deviation * density, 0.0, m * p3)
    return overturn, p1 * lead / (np.asarray(n) + m)


def simulate_rounds(
    predictions: pd.DataFrame,
    tasks: dict[str, Task],
    *,
    n_mean: int,
    start: int = 4,
    step: int = 4,
    n_orders: int = 100,
    seed: int = 0,
) -> pd.DataFrame:
    """Rounds that go to the unsettled outputs first, against the uniform plan at equal cost.

    Parameters
    ----------
    predictions : DataFrame
        A stored pool with the same number of predictions of every output, more than `n_mean`.
    tasks : dict of str to Task
        With their test outputs; those without predictions are left out.
    n_mean : int
        Predictions of an output: of each in the uniform plan, on average in rounds.
    start, step : int, default 4
        Predictions of every output before the first round; of an output in a round, of which each
        goes to the eighth of the outputs with the largest gain.
    n_orders : int, default 100
        Random orders in which the stored predictions come; both policies see the same.
    seed : int, default 0

    Returns
    -------
    DataFrame
        A row for each policy ("uniform", "rounds") and output: task_id, test_index, policy, and
        the means over the orders of vote_2 (whether one of the two attempts is right), agreement
        (whether the two are those of the whole pool), n_predictions and n_tokens (prompt and
        reply).
    """
    pool = _StoredPool(predictions, tasks)
    if not 1 <= start <= n_mean <= pool.n:
        raise ValueError(f"need 1 <= start <= n_mean <= {pool.n}, got {start} and {n_mean}")
    rng = np.random.default_rng(seed)
    sums = {policy: np.zeros((4, pool.n_outputs)) for policy in ("uniform", "rounds")}
    for _ in range(n_orders):
        order = rng.permuted(np.tile(np.arange(pool.n), (pool.n_outputs, 1)), axis=1)
        for policy, total in sums.items():
            n = np.full(pool.n_outputs, n_mean if policy == "uniform" else start)
            budget = pool.n_outputs * n_mean - n.sum()
            while budget > 0:
                votes = np.sort(pool.counts(order, n))[:, [-1, -2, -3]]
                further = max(step, budget // pool.n_outputs)
                _, gain = expected_gain(n, votes, further)
                gain[n == pool.n] = -1
                for row in np.argsort(-gain, kind="stable")[: -(-pool.n_outputs // 8)]:
                    more = min(step, pool.n - n[row], budget)
                    n[row] += more
                    budget -= more
            total += pool.judge(order, n)
    names = ["vote_2", "agreement", "n_predictions", "n_tokens"]
    parts = [
        pool.outputs.assign(policy=policy, **dict(zip(names, total / n_orders)))
        for policy, total in sums.items()
    ]
    return pd.concat(parts, ignore_index=True)


class _StoredPool:
    """Predictions as arrays of shape (output, prediction), candidates numbered by output."""

    def __init__(self, predictions: pd.DataFrame, tasks: dict[str, Task]) -> None:
        pools = index_pools(predictions)
        sizes = np.bincount(pools.pool)
        if len(set(sizes.tolist())) != 1:
            raise ValueError("every output must have the same number of predictions")
        self.outputs, self.n, self.n_outputs = pools.pools, int(sizes[0]), len(sizes)
        local = np.arange(len(pools.pool_of)) - np.searchsorted(pools.pool_of, pools.pool_of)
        self.width = max(3, int(local.max(initial=0)) + 1)  # the rule asks for a third candidate
        by_pool = np.argsort(pools.pool, kind="stable").reshape(self.n_outputs, self.n)
        # What has no grid goes to one more column, which is cut off.
        self.candidate = np.append(local, self.width)[pools.candidate][by_pool]
        logprob = reply_logprob(predictions, per_token=True)
        self.logprob = np.where(np.isnan(logprob), -99.0, logprob)[by_pool]
        self.tokens = (predictions["n_tokens"] + predictions["n_prompt_tokens"]).to_numpy()[by_pool]
        self.right = np.zeros((self.n_outputs, self.width), dtype=bool)
        self.right[pools.pool_of, local] = find_right(pools, tasks)
        everything = np.tile(np.arange(self.n), (self.n_outputs, 1))
        self.final = self._attempts(everything, np.full(self.n_outputs, self.n))

    def counts(self, order: np.ndarray, n: np.ndarray) -> np.ndarray:
        """Votes of every candidate among the first n predictions of an order."""
        return self._sums(order, n, np.ones_like(self.logprob))

    def judge(self, order: np.ndarray, n: np.ndarray) -> np.ndarray:
        """vote_2, agreement, n_predictions and n_tokens of every output after n predictions."""
        attempts = self._attempts(order, n)
        known = np.arange(self.n) < n[:, None]
        tokens = (np.take_along_axis(self.tokens, order, axis=1) * known).sum(axis=1)
        agrees = (attempts == self.final).all(axis=1)
        return np.stack([(attempts & self.right).any(axis=1), agrees, n, tokens]).astype(float)

    def _sums(self, order: np.ndarray, n: np.ndarray, values: np.ndarray) -> np.ndarray:
        known = np.arange(self.n) < n[:, None]
        sums = np.zeros((self.n_outputs, self.width + 1))
        rows = np.repeat(np.arange(self.n_outputs), n)
        columns = np.take_along_axis(self.candidate, order, axis=1)[known]
        np.add.at(sums, (rows, columns), np.take_along_axis(values, order, axis=1)[known])
        return sums[:, :-1]

    def _attempts(self, order: np.ndarray, n: np.ndarray) -> np.ndarray:
        """Which candidates are the first two, by votes and then by log-probability."""
        votes = self.counts(order, n)
        mean = self._sums(order, n, self.logprob) / np.maximum(votes, 1)
        best = np.lexsort((-mean, -votes), axis=1)[:, :2]
        chosen = np.zeros(votes.shape, dtype=bool)
        np.put_along_axis(chosen, best, True, axis=1)
        return chosen & (votes > 0)


def _normal_cdf(z: np.ndarray) -> np.ndarray:
    return np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in np.ravel(z)]).reshape(np.shape(z))
