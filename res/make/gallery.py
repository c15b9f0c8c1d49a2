"""Draw the README's picture: a task, and below it the candidates of its test outputs."""

import argparse

from arc_airv.plots import plot_task
from arc_airv.records import read_predictions
from arc_airv.tasks import load_tasks
from arc_airv.vote import rank_candidates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--predictions", default="res/dumps/1024/t0.00.jsonl.gz")
    parser.add_argument("--tasks", default="arc-agi-1/evaluation")
    parser.add_argument("--task", default="c8b7cc0f")
    parser.add_argument("--candidates", default=8, type=int)
    parser.add_argument("--into", default="res/gallery.png")
    args = parser.parse_args()
    ranked = rank_candidates(read_predictions(args.predictions))
    figure = plot_task(load_tasks(args.tasks)[args.task], ranked=ranked, n=args.candidates)
    figure.savefig(args.into, dpi=110, bbox_inches="tight")
    print(args.into)


if __name__ == "__main__":
    main()
