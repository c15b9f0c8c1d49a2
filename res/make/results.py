"""Recompute the tables of results from the stored predictions.

    python res/make/results.py             # print it
    python res/make/results.py --write docs/results.md
    python res/make/results.py --common --write docs/results.md
    python res/make/results.py --dumps res/dumps/base --columns accuracy random_2 vote_1 vote_2

Every metric is a mean over all tasks of the data set. A test output without predictions counts as
0 (as 1 for "unanswered"); one with fewer than N counts with those that it has. --common keeps only
the tasks for which all runs have the same number of predictions, so that every metric can be
compared.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from arc_airv.metrics.curves import metric_curves
from arc_airv.metrics.outputs import bootstrap_interval, score_outputs
from arc_airv.records import read_predictions
from arc_airv.tasks import Task, load_tasks
from arc_airv.vote.candidates import POOL

MARKS = "<!-- results: python {} -->", "<!-- end of results -->"
# Named as by sweep.py, with "-shortened" after it where demonstrations were dropped; each folder
# holds tasks of another size.
RUNS = {
    "t0.00": "AIRV: each prediction from a different view",
    "plain-t0.50": "no augmentation: as many samples of the plain view at temperature 0.5",
}
GAINS = ("accuracy", "random_2", "vote_1", "vote_2", "pass_n")
COLUMNS = {
    "accuracy": "a single prediction",
    "correct_size": "correct size",
    "correct_pixels": "correct pixels",
    "best_correct_size": "best size",
    "best_correct_pixels": "best pixels",
    "unanswered": "unanswered",
    "random_2": "random_2",
    "vote_1": "vote_1",
    "vote_2": "vote_2",
    "pass_n": "pass_n",
}


def results(
    predictions: pd.DataFrame, tasks: dict[str, Task], columns: Sequence[str]
) -> pd.DataFrame:
    """Return each metric (%) with its interval as text, one row per number of predictions."""
    curves = metric_curves(predictions, tasks)
    # The chance that one of two random predictions is right is the same at every N.
    random_2 = curves[(curves["metric"] == "pass_n") & (curves["n"] == 2)]
    points = [random_2.assign(metric="random_2", n=n) for n in curves["n"].unique() if n > 1]
    curves = pd.concat([curves, *points])
    curves["text"] = [
        f"{100 * value:.1f} ({100 * low:.1f}-{100 * high:.1f})"
        for value, low, high in curves[["value", "low", "high"]].itertuples(index=False)
    ]
    table = curves.pivot(index="n", columns="metric", values="text")
    return table.reindex(columns=list(columns)).rename(columns=COLUMNS).fillna("")


def asked_alike(runs: Sequence[pd.DataFrame], tasks: dict[str, Task]) -> dict[str, Task]:
    """Return the tasks for which all runs have the same number of predictions per output."""
    counts = pd.concat([run.groupby(POOL).size() for run in runs], axis=1)
    alike = counts.nunique(axis=1, dropna=False) == 1
    found = alike[alike].groupby("task_id").size()
    return {t: task for t, task in tasks.items() if found.get(t, 0) == len(task.test)}


def paired_gain(run: pd.DataFrame, baseline: pd.DataFrame, tasks: dict[str, Task]) -> str:
    """Return the gain of a run over the baseline, both on the same resampled tasks, as a line."""
    of_run, of_baseline = (
        score_outputs(p[p["task_id"].isin(tasks)], tasks) for p in (run, baseline)
    )
    gain = 100 * bootstrap_interval(of_run, baseline=of_baseline)
    values = [
        f"{name} {value:+.1f} ({low:.1f} to {high:.1f})"
        for name, (value, low, high) in gain.loc[list(GAINS)].iterrows()
    ]
    return f"The first run less the second, paired over tasks: {', '.join(values)}."


def as_markdown(table: pd.DataFrame) -> str:
    """Format a table of text and its index as Markdown."""
    rows = [["N", *table.columns], ["---"] * (1 + table.shape[1])]
    rows += [[str(row.Index), *row[1:]] for row in table.itertuples()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dumps", default="res/dumps", type=Path, help="folder of the stores")
    parser.add_argument("--tasks", default="arc-agi-1/evaluation")
    parser.add_argument("--columns", default=list(COLUMNS), nargs="+", choices=COLUMNS)
    parser.add_argument("--common", action="store_true", help="only tasks that all runs cover")
    parser.add_argument("--write", type=Path, help="replace the tables between this file's marks")
    args = parser.parse_args()
    tasks = load_tasks(args.tasks)
    runs = {}
    for name, title in RUNS.items():
        if stores := sorted(args.dumps.glob(f"[0-9]*/{name}*.jsonl.gz")):
            runs[title] = pd.concat(map(read_predictions, stores), ignore_index=True)
    if not runs:
        raise SystemExit(f"no store of {list(RUNS)} in the folders of sizes under {args.dumps}")
    if args.common:
        tasks = asked_alike(list(runs.values()), tasks)
    n_outputs = sum(len(task.test) for task in tasks.values())
    parts = [MARKS[0].format(" ".join(sys.argv))]
    for title, predictions in runs.items():
        predictions = predictions[predictions["task_id"].isin(tasks)]
        asked = predictions.groupby(POOL).size()
        counts = asked.groupby(asked).size().sort_index(ascending=False)
        often = ", ".join(f"{count} with {n} predictions" for n, count in counts.items())
        parts.append(f"*{title}*: mean over {len(tasks)} tasks ({n_outputs} test outputs: {often})")
        parts.append(as_markdown(results(predictions, tasks, args.columns)))
    if args.common and len(runs) == 2:
        parts.append(paired_gain(*runs.values(), tasks))
    text = "\n\n".join([*parts, MARKS[1]])
    print(text)
    if args.write:
        old = args.write.read_text("utf-8")
        # A file may hold the tables of all tasks and those of the common tasks.
        marked = re.escape(MARKS[0]).replace(r"\{\}", "(.*?)") + ".*?" + re.escape(MARKS[1])
        found = re.finditer(marked, old, flags=re.DOTALL)
        places = [m.span() for m in found if ("--common" in m[1]) == args.common]
        if len(places) != 1:
            raise SystemExit(f"{args.write} must hold the marks {MARKS} once, found {len(places)}")
        start, end = places[0]
        new = old[:start] + text + old[end:]
        args.write.write_text(new, "utf-8")


if __name__ == "__main__":
    main()
