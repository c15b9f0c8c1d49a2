"""Combine: several stores by weighted votes, or several submissions slot by slot.

An ensemble of models, of augmentations or of machines. Nothing that is given is changed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from arc_airv.pools import CANDIDATE, candidate_features
from arc_airv.records import KEY, read_predictions, to_frame
from arc_airv.submission import ATTEMPTS, NO_ANSWER, Submission
from arc_airv.tasks import Task, read_json
from arc_airv.vote import rank_by_score

COUNTS = ("votes", "share")


def read_stores(paths: Iterable[str | Path], *, tasks: Mapping[str, Task]) -> pd.DataFrame:
    """Read several stores of one plan as one table.

    Parameters
    ----------
    paths : iterable of path
        Those that do not exist are left out.
    tasks : mapping of str to Task
        Predictions for outputs that these do not have are left out.

    Returns
    -------
    DataFrame
        As of `arc_airv.records.read_predictions`. A key that several stores hold counts once.
    """
    frames = [read_predictions(path) for path in paths if Path(path).exists()]
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        return to_frame([])
    merged = pd.concat(frames, ignore_index=True).drop_duplicates(KEY)
    known = {task_id: len(task.test) for task_id, task in tasks.items()}
    n_outputs = merged["task_id"].map(known).fillna(0)
    return merged[merged["test_index"].between(0, n_outputs - 1)].reset_index(drop=True)


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


def combine_submissions(
    submissions: Sequence[Submission | str | Path],
    tasks: Mapping[str, Task],
    *,
    slots: Sequence[tuple[int, int]] | None = None,
) -> Submission:
    """Fill the two attempts of every output from several submissions.

    Parameters
    ----------
    submissions : sequence of submission or path
        May lack tasks and outputs.
    tasks : mapping of str to Task
        Every task of the challenges file.
    slots : sequence of (int, int), optional
        Which attempts to try in which order: (number of the submission, 0 or 1). By default the
        first attempts of all, then the second ones.

    Returns
    -------
    dict
        The content of a submission. An attempt that is ``[[0]]`` (no answer) or chosen already is
        passed over for the next slot.

    Raises
    ------
    ValueError
        If a slot names a submission or an attempt that is not there.

    Examples
    --------
    The second attempt of a submission, given to another one: ``slots=[(0, 0), (1, 0), (0, 1)]``.
    """
    contents = [read_json(s) if isinstance(s, (str, Path)) else s for s in submissions]
    for number, content in enumerate(contents):
        if not isinstance(content, Mapping):
            raise ValueError(f"submission {number} must be an object of tasks by id")
    if slots is None:
        slots = [(s, a) for a in range(len(ATTEMPTS)) for s in range(len(contents))]
    for s, a in slots:
        if s not in range(len(contents)) or a not in range(len(ATTEMPTS)):
            raise ValueError(
                f"slot {(s, a)}: there are {len(contents)} submissions of {len(ATTEMPTS)} attempts"
            )
    combined: Submission = {}
    for task_id, task in tasks.items():
        combined[task_id] = []
        for i in range(len(task.test)):
            chosen: list[list[list[int]]] = []
            for s, a in slots:
                answers = contents[s].get(task_id) or []
                grid = answers[i].get(ATTEMPTS[a], NO_ANSWER) if i < len(answers) else NO_ANSWER
                if grid != NO_ANSWER and grid not in chosen:
                    chosen.append(copy.deepcopy(grid))
            chosen += [copy.deepcopy(NO_ANSWER) for _ in ATTEMPTS]
            combined[task_id].append(dict(zip(ATTEMPTS, chosen)))
    return combined
