"""Tables for a reader: the content of a store, every metric with its meaning, tasks in order.

Where solutions are hidden there are fewer metrics, not none: the agreement of the predictions, and
the share without a grid. Here `outputs` is a table as `describe_outputs` gives it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from arc_airv.metrics.outputs import add_votes, average_pools, bootstrap_interval
from arc_airv.metrics.solutions import score_predictions
from arc_airv.records import NO_REPLY, other_tasks, read_predictions
from arc_airv.storage import has_run, read_run
from arc_airv.tasks import Task, has_hidden, outputs_of
from arc_airv.vote.candidates import POOL, Pools, index_pools
from arc_airv.vote.rank import rank_candidates

SHARE_OF = {  # each metric is the share of these, in the order of a table
    "accuracy": "predictions that are right",
    "correct_pixels": "cells that are right, none if the shape is not",
    "correct_size": "predictions of the right shape",
    "best_correct_pixels": "cells that are right in the best prediction",
    "best_correct_size": "outputs with a prediction of the right shape",
    "unanswered": "predictions without a grid",
    "agreement": "predictions that give the first candidate",
    "pass_n": "outputs with a right prediction",
    "random_2": "outputs solved by two predictions drawn at random",
    "vote_1": "outputs solved by the first candidate",
    "vote_2": "outputs solved by the first two, as in a submission",
    "voting_accuracy": "outputs with a right prediction that vote_2 solves",
}
CAPTION = ["pass_n", "vote_1", "vote_2", "agreement", "unanswered"]  # of a task, where known
STATUS_MEANINGS = {
    "ok": "The reply holds a grid.",
    "unparsed": "The reply holds no row of a grid, or the prompt was given up.",
    "ragged": "The rows differ in length, are misnumbered, or are not of the shape declared.",
    "too_large": "A side of the grid is longer than 30.",
    "truncated": "The reply reached its length limit before the grid was whole.",
    NO_REPLY: "No reply was above the threshold: no prediction.",
    "prompt_too_long": "The prompt does not fit the model's context with room to reply: not sent.",
}


@dataclass(frozen=True)
class Results:
    """A store, read against a data set.

    Attributes
    ----------
    predictions : DataFrame
        Those for the outputs of `tasks`.
    tasks : dict of str to Task
        Those that the run asked for, in the order of the data set: each counts, answered or not.
    notes : list of str
        Sentences for a reader: what the metrics are over and what was left out.
    """

    predictions: pd.DataFrame
    tasks: dict[str, Task]
    notes: list[str]


def read_results(store: str | Path, tasks: dict[str, Task]) -> Results:
    """Read a store against a data set: the predictions and tasks that its metrics are over.

    The store's run description tells which tasks were asked; without one, those with predictions
    count.

    Raises
    ------
    ValueError
        If a file is broken, or the store holds no prediction for these tasks.
    """
    predictions = read_predictions(store)
    run = read_run(store) if has_run(store) else {}
    others = other_tasks(store, tasks)
    known = pd.MultiIndex.from_frame(predictions[POOL]).isin(outputs_of(tasks))
    strangers, predictions = predictions[~known], predictions[known]
    predictions = predictions[~predictions["task_id"].isin(others)]
    if predictions.empty:
        raise ValueError(f"{store} holds no prediction for these {len(tasks)} tasks")
    asked = {*run.get("task_ids", ()), *predictions["task_id"]} - {*others}
    counted = {task_id: task for task_id, task in tasks.items() if task_id in asked}
    predictions = predictions[predictions["status"] != NO_REPLY]

    n_outputs, pools = len(outputs_of(counted)), predictions.groupby(POOL).size()
    each = " to ".join(map(str, dict.fromkeys([min(pools, default=0), max(pools, default=0)])))
    model = (run.get("settings") or {}).get("model", "an unknown model")
    notes = [
        f"{len(predictions):,} predictions by {model} for {len(pools)} test outputs, {each} each.",
        f"Every number is over {len(counted)} tasks with {n_outputs} test outputs.",
    ]
    if "task_ids" not in run:
        notes += ["No run description tells which tasks were asked: those with predictions count."]
    if len(counted) < len(tasks):
        notes += [f"These are the tasks that were asked, not all {len(tasks)} of the data set."]
    if n_missing := n_outputs - len(pools):
        notes += [f"Outputs without predictions, which count as 0: {n_missing}."]
    if ids := strangers["task_id"].unique().tolist():
        lacks = f"outputs of {len(ids)} tasks that the data set lacks, such as {ids[:3]}"
        notes += [f"Left out: {len(strangers)} predictions for {lacks}."]
    if others:
        notes += [
            f"Left out: {len(others)} tasks that are others in this data set, though their ids are "
            f"the same, such as {others[:3]}."
        ]
    if has_hidden(counted):
        notes += ["Solutions are hidden: no metric that needs them."]
    return Results(predictions, counted, notes)


def describe_outputs(
    predictions: pd.DataFrame | Pools,
    tasks: dict[str, Task],
    *,
    ranked: pd.DataFrame | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Describe every test output by what is known of it, also where solutions are hidden.

    Parameters
    ----------
    ranked : DataFrame, optional
        The ranking of these predictions, where there is one; else they are ranked by the options.

    Returns
    -------
    DataFrame
        The columns of `arc_airv.metrics.score_outputs`, with the same options, and agreement: the
        share of the N predictions that give the first candidate (0 where there is none). If a
        solution is hidden, only n_predictions, unanswered and agreement.
    """
    pools = index_pools(predictions)
    if ranked is None:
        ranked = rank_candidates(pools, tasks=tasks, **options)
    votes = ranked[ranked["rank"] == 1].set_index(POOL)["votes"]
    grids = pools.predictions["grid"].notna().groupby([pools.predictions[name] for name in POOL])
    counts = grids.agg(n="size", answered="mean").assign(agreement=votes / grids.size())
    outputs = pd.DataFrame(outputs_of(tasks), columns=POOL)
    counts = outputs.join(counts, on=POOL)[counts.columns].fillna(0.0)
    if has_hidden(tasks):
        outputs["n_predictions"] = counts["n"].astype(int)
        outputs["unanswered"] = 1.0 - counts["answered"]
    else:
        outputs = average_pools(score_predictions(pools, tasks), tasks)
        outputs = add_votes(outputs, ranked, tasks)
    return outputs.assign(agreement=counts["agreement"])


def metric_table(outputs: pd.DataFrame, *, average: str = "task") -> pd.DataFrame:
    """Average every metric of the outputs, with its 95% interval and what it is the share of.

    Returns
    -------
    DataFrame
        Indexed by metric, with the columns value, low, high (NaN where it has none, as
        voting_accuracy of pools without a right grid) and share_of.
    """
    table = bootstrap_interval(outputs, average=average)
    table = table.loc[sorted(table.index, key=[*SHARE_OF, *table.index].index)]
    return table.assign(share_of=[SHARE_OF.get(metric, "") for metric in table.index])


def sort_tasks(
    outputs: pd.DataFrame, metric: str = "correct_pixels", *, worst_first: bool = True
) -> pd.DataFrame:
    """Sort tasks by the mean of a metric over their outputs; equal tasks keep their order.

    A metric that needs solutions, where they are hidden, is replaced by agreement. The worst value
    is the lowest; of unanswered, the highest.

    Returns
    -------
    DataFrame
        One row a task, indexed by task_id; its first column is the metric sorted by, the others
        are for a caption.
    """
    known = [name for name in SHARE_OF if name in outputs]
    if "accuracy" not in known and metric in SHARE_OF and metric not in known:
        metric = "agreement"
    if metric not in known:
        raise ValueError(f"no metric {metric!r} in {known}")
    shown = dict.fromkeys([metric, *(name for name in CAPTION if name in known)])
    by_task = outputs.groupby("task_id", sort=False)[list(shown)].mean()
    ascending = worst_first != (metric == "unanswered")
    return by_task.sort_values(metric, ascending=ascending, kind="stable")


def status_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Count the statuses of predictions, and say what each means, in strings for `align`."""
    counts = predictions["status"].value_counts()
    rows = [
        [status, f"{n:,}", f"{n / len(predictions):.1%}", STATUS_MEANINGS.get(status, "")]
        for status, n in counts.items()
    ]
    return pd.DataFrame(rows, columns=["status", "predictions", "share", "meaning"])


def format_metrics(table: pd.DataFrame) -> pd.DataFrame:
    """Write a `metric_table` as strings for `align`, in percent; "–" where there is no number."""
    percent = table[["value", "low", "high"]].map("{:.1%}".format).replace("nan%", "–")
    interval = percent["low"].str.rjust(5) + " – " + percent["high"].str.rjust(5)
    interval = interval.where(table["low"].notna(), "–")
    columns = {"metric": table.index, "mean": percent["value"], "95% interval": interval}
    return pd.DataFrame({**columns, "share of": table["share_of"]}).reset_index(drop=True)


def align(table: pd.DataFrame) -> str:
    """Write a table of strings as plain text in aligned columns, single numbers to the right."""
    columns = []
    for name in table:
        cells = [name, *table[name]]
        width = max(map(len, cells))
        numbers = set("".join(table[name])) <= set("0123456789.,%–")
        columns.append([cell.rjust(width) if numbers else cell.ljust(width) for cell in cells])
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*columns))
