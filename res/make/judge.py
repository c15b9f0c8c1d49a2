"""What an instruct LLM is worth as the judge of a pool, against votes.

    python res/make/smollm2.py
    python res/make/judge.py --model models/smollm2 --predictions res/dumps/settings/t0.00.jsonl.gz

Only outputs whose right grid is among the candidates that are judged, and not alone, can be won or
lost, so no others are asked about. For each way: how often the right one is first, and one of the
first two.
"""

import argparse
import time

import pandas as pd

from arc_airv.engines import TransformersEngine
from arc_airv.metrics import right_ranks
from arc_airv.records import read_predictions
from arc_airv.studies.judge import judge_pairs, judge_yes_no
from arc_airv.tasks import load_tasks
from arc_airv.vote.candidates import POOL
from arc_airv.vote.rank import rank_by_score, rank_candidates


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
    by_votes = right_ranks(rank_candidates(predictions), tasks)
    by_votes = by_votes[(by_votes["rank"] <= args.top_k) & (by_votes["n_candidates"] > 1)]
    outputs = pd.MultiIndex.from_frame(by_votes[POOL])
    asked = predictions[predictions.set_index(POOL).index.isin(outputs)]
    print(f"{len(outputs)} outputs", flush=True)
    engine = TransformersEngine(args.model)
    judges = {
        "votes": rank_candidates,
        "yes or no": lambda p: rank_by_score(
            judge_yes_no(p, tasks, engine, n_views=args.views, top_k=args.top_k)
        ),
        "A or B": lambda p: rank_by_score(
            judge_pairs(p, tasks, engine, n_matches=args.matches, top_k=args.top_k)
        ),
    }
    for name, judge in judges.items():
        start = time.monotonic()
        ranks = right_ranks(judge(asked), tasks)["rank"]
        print(
            f"{name}: first {(ranks == 1).sum()}, one of two {(ranks <= 2).sum()}, "
            f"{time.monotonic() - start:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
