"""Judging: an instruct LLM is asked which candidates of a pool are right.

Either one by one, "is this the right output?" (`judge_yes_no`), or two at a time, "A or B?"
(`judge_pairs`). The model writes nothing: the probabilities of the two answers are read.

Measure first: the published judge won offline and lost on the leaderboard (see the notes of the two
functions), and it had been fine-tuned to judge. A small model that never was is likely worse.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from arc_airv.augment import Augmentation, sample_augmentations
from arc_airv.engines.base import Engine
from arc_airv.grids import Grid, parse_grid
from arc_airv.infer.views import progress_bar
from arc_airv.prompts.encoders import GridEncoder
from arc_airv.studies.ranking import Tournament, log_logistic
from arc_airv.studies.referee import JudgeTemplate, Referee
from arc_airv.tasks import Task, check_output
from arc_airv.vote.candidates import POOL
from arc_airv.vote.rank import rank_candidates


def judge_yes_no(
    predictions: pd.DataFrame,
    tasks: dict[str, Task],
    engine: Engine,
    *,
    n_views: int = 4,
    top_k: int = 8,
    seed: int = 0,
    encoder: GridEncoder | None = None,
    template: JudgeTemplate | None = None,
    progress: bool = True,
    **kinds: bool,
) -> pd.DataFrame:
    """Ask of every candidate, under several views of its task, whether it is right.

    Takes n_views prompts a candidate, and nothing is generated.

    Parameters
    ----------
    predictions : DataFrame
        As `arc_airv.records.read_predictions` gives it.
    tasks : dict of str to Task
        The tasks of the predictions.
    engine : Engine
        With `score`: of any instruct LLM; not necessarily the one that predicted.
    n_views : int, default 4
        Views of each task, the same for all its candidates.
    top_k : int, default 8
        Judge only so many candidates of a pool: those with the most votes.
    seed : int, default 0
        Of the views, see `arc_airv.augment.sample_augmentations`.
    encoder : GridEncoder, optional
        How grids are written; by default as in the engine's prompt format.
    template : JudgeTemplate, optional
    progress : bool, default True
        Show a progress bar, if tqdm is installed.
    **kinds
        geometric, colors, train_order: as of `arc_airv.augment.sample_augmentations`.

    Returns
    -------
    DataFrame
        One row a candidate, pool by pool, the most voted first, with the columns

        task_id, test_index, grid, votes, mean_token_logprob
            As of `arc_airv.vote.candidate_features`.
        score
            Geometric mean of P(yes) / (P(yes) + P(no)) over the views.
        n_views
            How many those are. A view counts for all candidates of a pool or for none: it is left
            out, with a warning, if the context cannot hold the prompt of one of them.
        answer_mass
            Mean of P(yes) + P(no) over the prompts of the pool. Where it is near 0 the model had
            other things to say than yes or no, and the score means little.
        augmentation, score_logprob
            "judge", and ln of `score`, so that the table can be weighed as well as ranked.

        `score` is NaN for a candidate that was not judged, which so ranks behind the others.

    Raises
    ------
    ValueError
        If an argument is out of its range, the engine has no `score`, or a prediction is of no
        given task.

    Notes
    -----
    The verifier of ironbar/arc24, fine-tuned for it, had 59.3 (first candidate) and 77.4 (one of
    the first two) percent of the tasks whose answer is in the pool, where voting had 60.0 and 70.0;
    on the leaderboard, after test-time fine-tuning, 33 against voting's 37 to 38.

    Examples
    --------
    To rank by it, or to weigh it (not mixed with re-scores, whose column it shares)::

        judged = judge_yes_no(predictions, tasks, engine)
        ranked = rank_by_score(judged)
        w = {"votes": 1, "mean_score_logprob": 5}
        ranked = rank_candidates(predictions, method=w, scores=judged)
    """
    if n_views < 1:
        raise ValueError(f"n_views must be at least 1, got {n_views}")
    referee = Referee(engine, template, encoder)
    table, pools = _open_pools(predictions, tasks, top_k)
    prompts: list[str] = []
    for pool in pools:
        for view in pool.sample_views(n_views, seed=seed, **kinds):
            asked = [referee.render(*pool.output, view, [grid]) for grid in pool.grids]
            if referee.fit_each(asked):
                pool.views.append(view)
                prompts += asked
    with progress_bar(len(prompts), 0, progress, unit="prompt") as bar:
        log_odds, mass = referee.ask(prompts, referee.yes_no, bar)
    table["n_views"] = 0
    start = 0
    for pool in pools:
        end = start + len(pool.views) * len(pool.grids)
        pool.mass = mass[start:end].tolist()
        by_view = log_logistic(log_odds[start:end]).reshape(-1, len(pool.grids))  # ln P(yes)
        by_view = by_view[~np.isnan(by_view).any(axis=1)]
        pool.n_lost = len(pool.views) - len(by_view)
        if len(by_view):
            pool.write(table, by_view.mean(axis=0), n_views=len(by_view))
        start = end
    _report(pools, "their longest candidate")
    return table


def judge_pairs(
    predictions: pd.DataFrame,
    tasks: dict[str, Task],
    engine: Engine,
    *,
    n_matches: int = 4,
    top_k: int = 8,
    seed: int = 0,
    prior: float = 0.5,
    encoder: GridEncoder | None = None,
    template: JudgeTemplate | None = None,
    progress: bool = True,
    **kinds: bool,
) -> pd.DataFrame:
    """Ask of two candidates of a pool at a time which one is right: a tournament.

    Each match has a view of the task of its own (with few kinds of augmentation they come again),
    and is asked in both orders: A is the one, then the other. In the mean of the two log-odds, a
    liking for a place or a letter cancels; so a model that sees no difference finds all candidates
    equal, and they stay ordered by votes.

    In each round every candidate left plays `n_matches` matches, then the weaker half drops out,
    see `arc_airv.studies.ranking.Tournament`. Takes n_matches * (K + K/2 + ... + 2) prompts for a
    pool of K candidates, and nothing is generated.

    Parameters
    ----------
    predictions, tasks, engine, top_k, encoder, template, progress, **kinds
        As of `judge_yes_no`.
    n_matches : int, default 4
        Even.
    seed : int, default 0
        Of the views, and of who meets whom.
    prior : float, default 0.5
        See `arc_airv.studies.ranking.bradley_terry`.

    Returns
    -------
    DataFrame
        As of `judge_yes_no`, with these differences:

        score
            The candidate's share of the strength of all that were judged in its pool, by
            `arc_airv.studies.ranking.bradley_terry` over the matches of all rounds: by Luce's
            choice axiom the chance to be chosen out of all. 1 for who is alone.
        n_matches
            In place of n_views: how many it played. A view is left out, with a warning, if the
            context cannot hold the prompt of the two longest candidates of the pool.

    Raises
    ------
    ValueError
        As `judge_yes_no`.

    Notes
    -----
    The pairwise judge of ironbar/arc24, fine-tuned for it, won offline: of the tasks whose answer
    is in the pool, the first candidate was right for 68.7 percent (voting: 60.0), one of the first
    two for 81.0 (voting: 70.0). On the leaderboard, after test-time fine-tuning, it lost: 34
    against voting's 37 to 38.
    """
    referee = Referee(engine, template, encoder)
    table, pools = _open_pools(predictions, tasks, top_k)
    games: list[tuple[_Pool, Tournament]] = []
    for pool in pools:
        task, test_index = pool.output
        own_seed = f"{seed}/{task.task_id}/{test_index}"  # whatever other pools there are
        game = Tournament(len(pool.grids), n_matches=n_matches, seed=own_seed, prior=prior)
        views = pool.sample_views(game.n_total, seed=seed, **kinds)
        pool.views = [v for v in views if referee.fit_pairs(*pool.output, v, pool.grids)]
        if pool.views or len(pool.grids) == 1:
            games.append((pool, game))
    n_prompts = 2 * sum(game.n_total for _, game in games)
    with progress_bar(n_prompts, 0, progress, unit="prompt") as bar:
        while playing := [(pool, game) for pool, game in games if game.pairs]:
            prompts = []
            for pool, game in playing:
                for pair in game.pairs:
                    view, both = pool.next_view(), [pool.grids[k] for k in pair]
                    prompts.append(referee.render(*pool.output, view, both))
                    prompts.append(referee.render(*pool.output, view, both[::-1]))
            log_odds, mass = referee.ask(prompts, referee.a_or_b, bar)
            chances = np.exp(log_logistic((log_odds[::2] - log_odds[1::2]) / 2))
            start = 0
            for pool, game in playing:
                end = start + len(game.pairs)
                pool.mass += mass[2 * start : 2 * end].tolist()
                pool.n_lost += int(np.isnan(chances[start:end]).sum())
                game.record(chances[start:end])
                start = end
    table["n_matches"] = 0
    for pool, game in games:
        if game.played.any() or len(pool.grids) == 1:
            strengths = game.strengths
            pool.write(table, np.log(strengths / strengths.sum()), n_matches=game.played)
    _report(pools, "their two longest candidates")
    return table


@dataclass
class _Pool:
    """The candidates of a pool that are judged, and what became of it."""

    output: tuple[Task, int]  # the task, and which of its test outputs
    rows: pd.Index
    grids: list[Grid]
    n_views: int = 0
    views: list[Augmentation] = field(default_factory=list)  # those that fit
    n_asked: int = 0
    n_lost: int = 0  # views or matches without a number
    mass: list[float] = field(default_factory=list)

    def sample_views(self, n: int, **plan: Any) -> list[Augmentation]:
        # Of few kinds there may be fewer: a view that comes again would only count twice.
        views = list(dict.fromkeys(sample_augmentations(self.output[0], n, **plan)))
        self.n_views = len(views)
        return views

    def next_view(self) -> Augmentation:
        self.n_asked += 1
        return self.views[(self.n_asked - 1) % len(self.views)]

    def write(self, table: pd.DataFrame, logprob: np.ndarray, **counts: Any) -> None:
        if self.mass:
            table.loc[self.rows, "answer_mass"] = np.nanmean(self.mass)
        table.loc[self.rows, ["score", "score_logprob"]] = np.stack([np.exp(logprob), logprob], 1)
        for name, count in counts.items():
            table.loc[self.rows, name] = count


def _open_pools(
    predictions: pd.DataFrame, tasks: dict[str, Task], top_k: int
) -> tuple[pd.DataFrame, list[_Pool]]:
    """The table to fill, and the pools whose first candidates are judged."""
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    table = rank_candidates(predictions).rename(columns={"mean_logprob": "mean_token_logprob"})
    table = table[[*POOL, "grid", "votes", "mean_token_logprob"]].assign(augmentation="judge")
    table[["score", "score_logprob", "answer_mass"]] = np.nan
    pools = []
    for (task_id, test_index), rows in table.groupby(POOL, sort=False).groups.items():
        check_output(tasks, task_id, test_index)
        rows = rows[:top_k]
        grids = [parse_grid(grid) for grid in table.loc[rows, "grid"]]
        pools.append(_Pool((tasks[task_id], test_index), rows, grids))
    return table, pools


def _report(pools: list[_Pool], longest: str) -> None:
    """Warn of what was not asked, or not answered."""
    n_views = sum(pool.n_views for pool in pools)
    if too_long := n_views - sum(len(pool.views) for pool in pools):
        silent = sum(pool.n_views > 0 and not pool.views for pool in pools)
        warnings.warn(
            f"{too_long} of {n_views} views do not fit the model's context with {longest}: they "
            f"were not asked, and {silent} of {len(pools)} pools were not judged",
            stacklevel=3,
        )
    if n_lost := sum(pool.n_lost for pool in pools):
        warnings.warn(f"{n_lost} views or matches gave no number and do not count", stacklevel=3)
