"""Rounds that go to the unsettled outputs first, against the uniform plan, on a stored pool.

    python notebooks/studies/rounds_study.py predictions.jsonl --tasks arc-agi-1/evaluation

At equal numbers of predictions. A difference comes with a 95% bootstrap interval over tasks.
"""

import argparse

import numpy as np
import pandas as pd

from arc_airv.kaggle.settle import simulate_rounds
from arc_airv.records import read_predictions
from arc_airv.tasks import load_tasks
from arc_airv.vote.candidates import POOL


def compare(simulated: pd.DataFrame) -> pd.DataFrame:
    """The two policies and their difference, over all test outputs."""
    by_policy = {
        policy: rows.drop(columns="policy").set_index(POOL)
        for policy, rows in simulated.groupby("policy")
    }
    means = {policy: rows.mean() for policy, rows in by_policy.items()}
    table = pd.DataFrame({**means, "difference": means["rounds"] - means["uniform"]})
    by_task = (by_policy["rounds"] - by_policy["uniform"]).groupby("task_id")
    total, count = by_task.sum().to_numpy(), by_task.size().to_numpy()
    draws = np.random.default_rng(0).integers(len(count), size=(2000, len(count)))
    means = total[draws].sum(axis=1) / count[draws].sum(axis=1, keepdims=True)
    table["low"], table["high"] = np.percentile(means, [2.5, 97.5], axis=0)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("predictions")
    parser.add_argument("--tasks", required=True)
    parser.add_argument("--means", type=int, nargs="+", default=[6, 8, 10, 12])
    parser.add_argument("--start", type=int, default=4)
    parser.add_argument("--step", type=int, default=2)
    parser.add_argument("--orders", type=int, default=200)
    args = parser.parse_args()
    predictions, tasks = read_predictions(args.predictions), load_tasks(args.tasks)
    n_outputs = len(predictions[POOL].drop_duplicates())
    print(f"{predictions['task_id'].nunique()} tasks, {n_outputs} outputs, {args.orders} orders")
    for n_mean in args.means:
        simulated = simulate_rounds(
            predictions,
            tasks,
            n_mean=n_mean,
            start=args.start,
            step=args.step,
            n_orders=args.orders,
        )
        print(f"\n{n_mean} predictions of an output on average")
        print(compare(simulated).round(4).to_string())


if __name__ == "__main__":
    main()
