"""Measure an instruct LLM as the judge of a pool, against votes.

    python res/make/smollm2.py
    python res/make/judge.py --model models/smollm2 \\
        --predictions res/dumps/settings/t0.00.jsonl.gz

The comparison covers only the outputs whose right grid is among several judged candidates: a
judge makes no difference for the others. For each ranking, the command prints how often the right
grid comes first, and how often it is one of the first two.
"""

import argparse
import time

import pandas as pd

from arc_airv.engines import TransformersEngine
from arc_airv.metrics import right_ranks
from arc_airv.records import read_predictions
from arc_airv.studies import judge_yes_no
from arc_airv.tasks import load_tasks
from arc_airv.vote import rank_by_score, rank_candidates

POOL = ["task_id", "test_index"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="models/smollm2")
    parser.add_argument("--tasks", default="arc-agi-1/evaluation")
    parser.add_argument("--predictions", default="res/dumps/settings/t0.00.jsonl.gz")
    parser.add_argument("--top-k", default=4, type=int, help="candidates to judge")
    parser.add_argument("--views", default=1, type=int, help="views of each candidate")
    args = parser.parse_args()
    tasks = load_tasks(args.tasks)
    ranked = rank_candidates(read_predictions(args.predictions))
    ranks = right_ranks(ranked, tasks)
    ranks = ranks[(ranks["rank"] <= args.top_k) & (ranks["n_candidates"] > 1)]
    outputs = pd.MultiIndex.from_frame(ranks[POOL])
    asked = ranked[pd.MultiIndex.from_frame(ranked[POOL]).isin(outputs)]
    asked = asked[asked["rank"] <= args.top_k]
    print(f"{len(outputs)} outputs", flush=True)
    engine = TransformersEngine(args.model)
    start = time.monotonic()
    judged = judge_yes_no(asked, tasks, engine, n_views=args.views)
    print(f"P(yes) + P(no): {judged['answer_mass'].mean():.0%}, {time.monotonic() - start:.0f} s")
    for name, ranking in {"votes": asked, "yes or no": rank_by_score(judged)}.items():
        rank = right_ranks(ranking, tasks)["rank"]
        print(f"{name}: first {(rank == 1).sum()}, one of two {(rank <= 2).sum()}")


if __name__ == "__main__":
    main()
