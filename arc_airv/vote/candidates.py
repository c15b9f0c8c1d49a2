"""Pools: the predictions of each test output, their distinct grids, and the features of each.

The strings of the predictions are compared once, here; everything after counts numbers. Knows
neither tasks nor solutions, and chooses nothing.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from arc_airv.grids import N_COLORS, format_grid, stack_grids
from arc_airv.records import ASKED, KEY, NO_REPLY, check_table

POOL = ["task_id", "test_index"]
CANDIDATE = [*POOL, "grid"]
# What tells that two predictions are one draw.
DRAW = ("prompt_hash", "model", "temperature", "text", "augmentation", "sample_index")

COUNTS = ("votes", "share", "log_votes", "shape_votes", "agreement", "n_scores")
AGGREGATES = {"sum": np.add, "mean": np.add, "max": np.maximum, "min": np.minimum}
AGGREGATES["logsumexp"] = np.logaddexp
QUANTITIES = ("reply_logprob", "token_logprob", "score_logprob")
FEATURES = (*COUNTS, *(f"{how}_{what}" for what in QUANTITIES for how in AGGREGATES))


@dataclass(frozen=True)
class Pools:
    """Predictions by pool and candidate, as numbers.

    Attributes
    ----------
    predictions : DataFrame
        Without the rows that hold none (`arc_airv.records.NO_REPLY`), and without copies of others.
    pools, candidates : DataFrame
        Columns task_id, test_index, and grid of the candidates; distinct and sorted. A pool may
        have no candidate.
    pool, candidate : ndarray of shape (n_predictions,), dtype int64
        The row of `pools`, and that of `candidates` (-1: no grid), for each prediction.
    voter : ndarray of shape (n_predictions,), dtype int64
        The same as `candidate`, but -1 where another prediction votes for both: a model's greedy
        reply to a prompt counts once, though two views may have that prompt (their permutations
        differ in colours that the task lacks) or a short plan repeats one.
    pool_of : ndarray of shape (n_candidates,), dtype int64
        The row of `pools` for each candidate.
    """

    predictions: pd.DataFrame
    pools: pd.DataFrame
    candidates: pd.DataFrame
    pool: np.ndarray
    candidate: np.ndarray
    voter: np.ndarray
    pool_of: np.ndarray

    @property
    def votes(self) -> np.ndarray:
        """The number of predictions that vote for each candidate."""
        return np.bincount(self.voter + 1, minlength=len(self.candidates) + 1)[1:]


def index_pools(predictions: pd.DataFrame | Pools) -> Pools:
    """Number the pools and candidates of predictions, of which a table needs `CANDIDATE` alone.

    A table that holds a run twice, to the last digit, counts it once, with a warning.
    """
    if isinstance(predictions, Pools):
        return predictions
    check_columns(predictions, CANDIDATE)
    check_table(predictions)
    if "status" in predictions:
        predictions = predictions[predictions["status"] != NO_REPLY]
    predictions = _drop_copies(predictions)
    task, _ = pd.factorize(predictions["task_id"], sort=True)
    test_index, test_indices = pd.factorize(predictions["test_index"], sort=True)
    output = task * len(test_indices) + test_index
    _, first, pool = np.unique(output, return_index=True, return_inverse=True)
    pools = predictions[POOL].iloc[first].reset_index(drop=True)

    grid, grids = pd.factorize(predictions["grid"])
    texts = np.asarray(grids, dtype=object).tolist()
    alphabetical = np.empty(len(texts), dtype=np.int64)
    alphabetical[sorted(range(len(texts)), key=texts.__getitem__)] = np.arange(len(texts))
    valid = np.flatnonzero(grid >= 0)
    given = pool[valid] * len(texts) + alphabetical[grid[valid]]
    candidate = np.full(len(predictions), -1)
    _, first, candidate[valid] = np.unique(given, return_index=True, return_inverse=True)
    candidates = predictions[CANDIDATE].iloc[valid[first]].reset_index(drop=True)
    voter = np.where(_repeats(predictions, pool), -1, candidate)
    return Pools(predictions, pools, candidates, pool, candidate, voter, pool[valid[first]])


def _drop_copies(predictions: pd.DataFrame) -> pd.DataFrame:
    """Drop what is there twice, if it is a run's copy.

    It is one if all that a model answered twice, of one key and prompt, is the same to the last
    digit. Independent replies to a prompt may be the same, too, but hardly all of them.
    """
    asked = [*KEY, *ASKED]
    reply = [*asked, "text", "cumulative_logprob"]
    if not set(reply) <= set(predictions) or not predictions.duplicated(KEY).any():
        return predictions
    known = predictions[["model", "prompt_hash"]].notna().all(axis=1)
    again, copies = (known & predictions.duplicated(names) for names in (asked, reply))
    if not copies.any() or copies.sum() < again.sum():
        return predictions
    warnings.warn(
        f"{copies.sum()} predictions are there twice, to the last digit of their probability: "
        "each counts once",
        stacklevel=4,
    )
    return predictions[~copies]


def _repeats(predictions: pd.DataFrame, pool: np.ndarray) -> np.ndarray:
    """Return True for each prediction that is another one's greedy reply to the same prompt."""
    repeats = np.zeros(len(predictions), dtype=bool)
    if not set(DRAW) <= set(predictions):
        return repeats
    known = predictions["prompt_hash"].notna() & predictions["model"].notna()
    greedy = np.flatnonzero(known & (predictions["temperature"] == 0) & predictions["grid"].notna())
    prompts = predictions.iloc[greedy]
    asked = pd.DataFrame(
        {
            "pool": pool[greedy],
            "prompt": pd.factorize(prompts["prompt_hash"])[0],
            "model": pd.factorize(prompts["model"])[0],
        }
    )
    several = asked.duplicated(keep=False).to_numpy()
    # Of the same text, too, for a beam search has several replies to a prompt. The first by its
    # view stays: their grids may differ in colours that the task lacks.
    rows = asked[several].assign(row=greedy[several])
    for name in ("text", "augmentation", "sample_index", "grid"):
        rows[name] = prompts[name].to_numpy()[several]
    rows = rows.sort_values(["augmentation", "sample_index", "grid"], kind="stable")
    repeats[rows["row"][rows.duplicated(["pool", "prompt", "model", "text"])]] = True
    return repeats


def candidate_features(
    predictions: pd.DataFrame | Pools,
    *,
    features: Sequence[str] | None = None,
    scores: pd.DataFrame | None = None,
    compose: bool = False,
) -> pd.DataFrame:
    """Compute the features of every candidate: the numbers that a selector weighs.

    Parameters
    ----------
    features : sequence of str, optional
        By default all, or all but those that need `scores` where none are given.
    scores : DataFrame, optional
        Those of grids that nobody predicted are left out.
    compose : bool, default False
        Vote cell by cell. The predictions of a pool are grouped by shape; in each shape every cell
        takes the colour that most of them give it (a tie: the colour in the grid with more votes,
        then with the higher mean_token_logprob). A grid so composed that nobody predicted joins
        the candidates, with 0 votes; of its other features, shape_votes and agreement are known.

    Returns
    -------
    DataFrame
        One row a candidate, sorted by task_id, test_index and grid, with the columns

        votes, log_votes, share
            The number n of predictions that gave the grid (a greedy reply to a prompt counts once,
            see `Pools.voter`); ln n; n over that of all grids of the pool (0-1).
        shape_votes, agreement
            The number of the pool's predictions that have the candidate's shape; the mean share
            (0-1) of them that agree with its cells.
        {sum, mean, max, min, logsumexp}_{reply, token, score}_logprob
            Over the predictions of the grid: the log-probability of the reply (nats), or per token
            of it; over the views that re-scored it: that of the grid (nats). Unknown values do not
            count; NaN where all are.
        n_scores
            The number of views that re-scored it, NaN not counted.

    Raises
    ------
    ValueError
        If a feature is unknown or needs `scores`, or a view scores a candidate twice.

    Examples
    --------
    A formula of one's own, to be ranked by `arc_airv.vote.rank_by_score`:

    >>> p = pd.DataFrame({"task_id": "a", "test_index": 0, "grid": ["1", "2", "2"],
    ...                   "cumulative_logprob": [-1.0, -2.0, -4.0], "n_tokens": 2})
    >>> table = candidate_features(p)
    >>> table.assign(score=table["votes"] * np.exp(table["max_token_logprob"]))["score"].round(2)
    0    0.61
    1    0.74
    Name: score, dtype: float64
    """
    if features is None:
        features = [name for name in FEATURES if scores is not None or not needs_scores(name)]
    check_features(features, has_scores=scores is not None)
    pools = index_pools(predictions)
    table = pools.candidates.copy()
    votes = pools.votes
    valid = np.bincount(pools.pool_of, weights=votes, minlength=len(pools.pools))[pools.pool_of]
    with np.errstate(divide="ignore"):
        counts = {"votes": votes, "share": votes / valid, "log_votes": np.log(votes)}
    if compose or {"shape_votes", "agreement"} & set(features):
        logprob = np.zeros(len(table))
        if compose:
            by_token = reply_logprob(pools, per_token=True)
            logprob = aggregate(by_token, pools.voter, len(table), "mean")
        *cells, composed = vote_cells(table["grid"].tolist(), pools.pool_of, votes, logprob)
        counts["shape_votes"], counts["agreement"] = cells
    if any(map(needs_scores, features)):
        scored = _scored_candidates(pools, scores)
        known = scored[(scored >= 0) & scores["score_logprob"].notna().to_numpy()]
        counts["n_scores"] = np.bincount(known, minlength=len(table))
    for name in features:
        how, _, what = name.partition("_")
        if name in counts:
            table[name] = counts[name]
        elif what == "score_logprob":
            table[name] = aggregate(scores[what], scored, len(table), how)
        else:
            logprob = reply_logprob(pools, per_token=what == "token_logprob")
            table[name] = aggregate(logprob, pools.voter, len(table), how)
    if compose and composed:
        pool, grid, shape_votes, agreement = zip(*composed)
        new = pools.pools.iloc[list(pool)].assign(grid=grid, votes=0)
        new = new.assign(shape_votes=shape_votes, agreement=agreement)
        table = pd.concat([table, new])[table.columns].sort_values(CANDIDATE, ignore_index=True)
    return table


def aggregate(values: np.ndarray, owners: np.ndarray, n: int, how: str) -> np.ndarray:
    """Reduce the known values of each of n owners to one number, NaN where there is none.

    `owners` holds 0 to n - 1, or -1 for a value that nobody owns; `how` is one of `AGGREGATES`.
    The result is the same to the last digit in whatever order the values come.
    """
    values = np.asarray(values, dtype=float)
    kept = (owners >= 0) & ~np.isnan(values)
    values, owners = values[kept], owners[kept]
    order = np.lexsort((values, owners))
    values = values[order]
    present, first, count = np.unique(owners[order], return_index=True, return_counts=True)
    out = np.full(n, np.nan)
    out[present] = AGGREGATES[how].reduceat(values, first) / (count if how == "mean" else 1)
    return out


def reply_logprob(pools: Pools, *, per_token: bool) -> np.ndarray:
    """Return the log-probability of every reply: of the whole (nats), or per token."""
    check_columns(pools.predictions, ["cumulative_logprob", "n_tokens"])
    logprob = pools.predictions["cumulative_logprob"]
    if per_token:
        logprob = logprob / pools.predictions["n_tokens"]
    return logprob.to_numpy(dtype=float)


def needs_scores(feature: str) -> bool:
    """Tell if a feature comes from re-scores."""
    return feature == "n_scores" or feature.endswith("score_logprob")


def check_features(features: Sequence[str], *, has_scores: bool) -> None:
    """Raise ValueError if a feature is unknown, or needs re-scores that there are not."""
    if unknown := [name for name in features if name not in FEATURES]:
        raise ValueError(f"unknown features {unknown}: the known ones are {list(FEATURES)}")
    if not has_scores and (needing := [name for name in features if needs_scores(name)]):
        raise ValueError(f"the features {needing} need scores= (log-probabilities of candidates)")


def check_columns(frame: pd.DataFrame, needed: Sequence[str], *, name: str = "predictions") -> None:
    """Raise ValueError if a table lacks columns."""
    if missing := [column for column in needed if column not in frame.columns]:
        raise ValueError(f"{name} lack the columns {missing}")


def _scored_candidates(pools: Pools, scores: pd.DataFrame) -> np.ndarray:
    """Number the candidate of each re-score; -1 where it is none."""
    check_columns(scores, [*CANDIDATE, "augmentation", "score_logprob"], name="scores")
    twice = scores.duplicated([*CANDIDATE, "augmentation"])
    if twice.any():
        example = scores.loc[twice, [*CANDIDATE, "augmentation"]].iloc[0].to_dict()
        raise ValueError(f"scores hold the same candidate and view twice: {example}")
    known, given = (pd.MultiIndex.from_frame(f[CANDIDATE]) for f in (pools.candidates, scores))
    scored = known.get_indexer(given)
    n_pools = len(np.unique(pools.pool_of))
    n_scored = len(np.unique(pools.pool_of[scored[scored >= 0]]))
    if n_scored < n_pools:
        if not n_scored and len(scores):
            raise ValueError(
                f"scores are of other predictions: no candidate of {n_pools} outputs has one"
            )
        warnings.warn(
            f"scores know no candidate of {n_pools - n_scored} of {n_pools} outputs", stacklevel=4
        )
    _check_prompts(pools.predictions, scores)
    _check_model(pools.predictions, scores)
    return scored


def _check_model(predictions: pd.DataFrame, scores: pd.DataFrame) -> None:
    """Warn if the model that scored gave none of the predictions, where all tell of their model.

    One that does not has the path of its store in the place of a model.
    """
    scorer = scores.attrs.get("model")
    if scorer and "model" in predictions and len(predictions):
        models = {str(model).split(" ")[0] for model in predictions["model"].unique()}  # no adapter
        if scorer not in models and not any(Path(model).is_absolute() for model in models):
            warnings.warn(
                "the scores are of another model than any that gave the predictions, or of one "
                "before it was trained again",
                stacklevel=5,
            )


def _check_prompts(predictions: pd.DataFrame, scores: pd.DataFrame) -> None:
    """Warn if a view of an output had one prompt when it was answered and another when scored."""
    view = [*POOL, "augmentation"]
    if not {*view, "prompt_hash"} <= set(predictions) & set(scores):
        return
    asked, scored = (
        frame[[*view, "prompt_hash"]].dropna().drop_duplicates() for frame in (predictions, scores)
    )
    both = scored.merge(asked, on=view, suffixes=("", "_asked"))
    if n_other := int((both["prompt_hash"] != both["prompt_hash_asked"]).sum()):
        warnings.warn(
            f"{n_other} of {len(both)} views had another prompt when they were scored than when "
            "they were answered: the scores are of other tasks of these ids, or of a model with "
            "another prompt format",
            stacklevel=5,
        )


def vote_cells(
    grids: Sequence[str], pool: np.ndarray, votes: np.ndarray, logprob: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, str, int, float]]]:
    """Let the candidates of each pool and shape vote cell by cell.

    Where colours tie in a cell, that of the grid with more votes is taken, then with the higher
    logprob (NaN is lowest), then of the first. Returns shape_votes and agreement of each candidate,
    and (pool, grid, shape_votes, agreement) of each composed grid that is no candidate itself.
    """
    better = np.where(np.isnan(logprob), np.inf, -logprob)
    shape_votes, agreement = np.zeros(len(grids), dtype=np.int64), np.zeros(len(grids))
    composed = []
    for rows, stack in stack_grids(grids):  # of one shape, of all pools
        order = np.lexsort((better[rows], -votes[rows], pool[rows]))
        rows, colors = rows[order], stack[order].reshape(len(rows), -1).astype(np.intp)
        first = np.flatnonzero(np.diff(pool[rows], prepend=-1))  # where each pool starts
        local = np.repeat(np.arange(len(first)), np.diff(first, append=len(rows)))
        n_cells = colors.shape[1]
        # Count the votes of every pool, colour and cell; then look up each candidate's own.
        index = (local[:, None] * N_COLORS + colors) * n_cells + np.arange(n_cells)
        weights = np.repeat(votes[rows], n_cells).astype(float)
        support = np.bincount(index.ravel(), weights=weights)[index]
        total = np.add.reduceat(votes[rows], first)
        shape_votes[rows] = total[local]
        agreement[rows] = support.mean(axis=1) / total[local]

        best = np.maximum.reduceat(support, first, axis=0)  # (pools, cells)
        number = np.where(support == best[local], np.arange(len(rows))[:, None], len(rows))
        leader = np.minimum.reduceat(number, first, axis=0)  # the first grid of the best colour
        winners = np.take_along_axis(colors, leader, axis=0)
        known = np.logical_or.reduceat((colors == winners[local]).all(axis=1), first)
        share = best.mean(axis=1) / total
        for i in np.flatnonzero(~known).tolist():
            text = format_grid(winners[i].reshape(stack.shape[1:]))
            composed.append((int(pool[rows[first[i]]]), text, int(total[i]), float(share[i])))
    return shape_votes, agreement, composed
