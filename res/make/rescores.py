"""Re-score the candidates of a stored run under other views, for the selectors that use scores.

    python res/make/rescores.py --predictions res/dumps/1024/t0.00.jsonl.gz \\
        --into res/dumps/1024/scores

Scores the first candidates by votes of every pool. The store keeps scores as they are made, so you
can stop the command and run it again.
"""

import argparse
from pathlib import Path

from sweep import pack

from arc_airv.engines import make_engine
from arc_airv.infer.rescoring import rescore
from arc_airv.records import read_predictions
from arc_airv.tasks import load_tasks
from arc_airv.vote import rank_candidates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="res/small")
    parser.add_argument("--engine", default="vllm", choices=["vllm", "transformers"])
    parser.add_argument("--tasks", default="arc-agi-1/evaluation")
    parser.add_argument("--predictions", default="res/dumps/1024/t0.00.jsonl.gz")
    parser.add_argument("--views", default=8, type=int)
    parser.add_argument("--top-k", default=8, type=int, help="candidates of each pool, by votes")
    parser.add_argument("--into", default="runs/scores", type=Path, help="name, without .jsonl.gz")
    args = parser.parse_args()
    ranked = rank_candidates(read_predictions(args.predictions))
    candidates = ranked[ranked["rank"] <= args.top_k]
    store = args.into.with_name(args.into.name + ".jsonl")
    tasks, engine = load_tasks(args.tasks), make_engine(args.engine, args.model, {})
    scores = rescore(candidates, tasks, engine, n_views=args.views, store=store)
    print(f"{len(scores)} scores of {len(candidates)} candidates")
    pack(store)


if __name__ == "__main__":
    main()
