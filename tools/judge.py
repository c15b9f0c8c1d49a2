"""What an instruct LLM is worth as the judge of a pool, against votes.

    python tools/smollm2.py
    python tools/judge.py --model models/smollm2 --predictions res/dumps/settings/t0.00.jsonl.gz

Only outputs whose right grid is among the candidates that are judged, and not alone, can be won or
lost, so no others are asked about. For each way: how often the right one is first, and one of the
first two.
"""

import argparse
import time

import pandas as pd

from arc_airv.engines import TransformersEngine
from arc_airv.grids import format_grid
from arc_airv.judge import judge_pairs, judge_yes_no
from arc_airv.records import read_predictions
from arc_airv.tasks import Task, load_tasks
from arc_airv.vote import rank_by_score, rank_candidates

OUTPUT = ["task_id", "test_index"]


def ranks_of_right(ranked: pd.DataFrame, tasks: dict[str, Task]) -> pd.Series:
    """The rank, from 1, of the right candidate of each output that has one."""
    solutions = {
        (task_id, i): format_grid(pair.output)
        for task_id, task in tasks.items()
        for i, pair in enumerate(task.test)
    }
    columns = zip(*(ranked[name] for name in [*OUTPUT, "grid"]))
    is_right = [solutions[task_id, i] == grid for task_id, i, grid in columns]
    return ranked[is_right].set_index(OUTPUT)["rank"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="models/smollm2")
    parser.add_argument("--tasks", default="arc-agi-1/evaluation")
    parser.add_argument("--predictions", default="res/dumps/settings/t0.00.jsonl.gz")
    parser.add_argument("--top-k", default=4, type=int, help="candidates to judge")
    parser.add_argument("--views", default=1, type=int, help="of each candidate, for yes or no")
    parser.add_argument("--matches", default=2, type=int, help="of each candidate, for A or B")
    args = parser.parse_args()
    tasks, predictions = load_tasks(args.tasks), read_predictions(args.predictions)
    ranked = rank_candidates(predictions)
    by_votes = ranks_of_right(ranked, tasks)
    by_votes = by_votes[(by_votes <= args.top_k) & (ranked.groupby(OUTPUT).size() > 1)]
    asked = predictions.set_index(OUTPUT).index.isin(by_votes.index)
    print(f"{len(by_votes)} outputs", flush=True)
    engine = TransformersEngine(args.model)
    judges = {
        "yes or no": lambda p: judge_yes_no(p, tasks, engine, n_views=args.views, top_k=args.top_k),
        "A or B": lambda p: judge_pairs(p, tasks, engine, n_matches=args.matches, top_k=args.top_k),
    }
    print(f"votes: first {(by_votes == 1).sum()}, one of two {(by_votes <= 2).sum()}", flush=True)
    for name, judge in judges.items():
        start = time.monotonic()
        ranks = ranks_of_right(rank_by_score(judge(predictions[asked])), tasks)
        print(
            f"{name}: first {(ranks == 1).sum()}, one of two {(ranks <= 2).sum()}, "
            f"{time.monotonic() - start:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
