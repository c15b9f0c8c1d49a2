"""Run the three notebooks on a seeded sample of real ARC-AGI-1 tasks.

    python notebooks/demo.py --into demo

The demo writes predictions.jsonl, pool.html (a page to browse them), the rendered notebooks (with
pictures: 02_visualize_predictions.html), their logs with the engines' output, and submission.json
into one folder. It prints the gain of voting over a single prediction.
"""

import argparse
import random
import time
from pathlib import Path

from run_notebook import run_notebook

from arc_airv.metrics import average_outputs, bootstrap_interval, score_outputs
from arc_airv.prompts import PromptFormat
from arc_airv.records import read_predictions
from arc_airv.submission import score_submission
from arc_airv.tasks import Task, hide_outputs, load_tasks, save_tasks, tasks_that_fit

ROWS = {
    "accuracy": "a single prediction",
    "random_2": "two predictions at random",
    "vote_1": "AIRV, best by votes",
    "vote_2": "AIRV, two best by votes (the submission)",
    "pass_n": "any of the predictions (the limit of voting)",
}


def sample_tasks(prompt_format: PromptFormat, n: int, longest: int, seed: int) -> dict[str, Task]:
    """Draw n tasks, half from each split, with prompts of at most `longest` characters."""
    tasks = {}
    for split in ("evaluation", "training"):
        short = tasks_that_fit(
            load_tasks(f"arc-agi-1/{split}"),
            longest,
            lambda task: max(len(prompt_format.render(task, i)) for i in range(len(task.test))),
        )
        chosen = random.Random(seed).sample(sorted(short), n // 2)
        tasks |= {task_id: short[task_id] for task_id in chosen}
    return tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", default="demo", type=Path)
    parser.add_argument("--model", default="res/small")
    parser.add_argument("--engine", default="vllm", choices=["vllm", "transformers"])
    parser.add_argument("--tasks", default=24, type=int)
    parser.add_argument("--predictions", default=16, type=int)
    parser.add_argument("--longest", default=1000, type=int, help="characters of a prompt")
    parser.add_argument("--seed", default=0, type=int)
    args = parser.parse_args()
    start = time.monotonic()
    args.into.mkdir(parents=True, exist_ok=True)
    tasks = sample_tasks(PromptFormat.load(args.model), args.tasks, args.longest, args.seed)
    known = save_tasks(tasks, args.into / "tasks.json")
    hidden = save_tasks(hide_outputs(tasks), args.into / "test_challenges.json")
    store = args.into / "predictions.jsonl"
    common = {"MODEL": args.model, "ENGINE": args.engine, "SEED": args.seed, "STORE": str(store)}
    common |= {"N_PREDICTIONS": args.predictions, "DROP_DEMONSTRATIONS": True}
    submission = args.into / "submission.json"
    print("01: augment, infer, reverse", flush=True)
    run_notebook("notebooks/01_generate_predictions.ipynb", args.into, TASKS=str(known), **common)
    print("02: the page, pictures and metrics", flush=True)
    run_notebook(
        "notebooks/02_visualize_predictions.ipynb",
        args.into,
        PREDICTIONS=str(store),
        TASKS=str(known),
        PAGE=str(args.into / "pool.html"),
    )
    print("03: vote and submit, with the solutions hidden", flush=True)
    run_notebook(
        "notebooks/03_build_submission.ipynb",
        args.into,
        TASKS=str(hidden),
        SUBMISSION=str(submission),
        **common,
    )
    outputs = score_outputs(read_predictions(store), tasks)
    print(f"\n{len(tasks)} ARC-AGI-1 tasks, {args.predictions} views of each, {args.model}")
    print(f"{'solved, averaged by task':<46} share   95% interval")
    for metric, (value, low, high) in bootstrap_interval(outputs).loc[list(ROWS)].iterrows():
        print(f"{ROWS[metric]:<46} {value:6.1%}  {low:6.1%} – {high:.1%}")
    # A model may have learnt the answers of the training tasks, half of the sample.
    fresh = outputs[outputs["task_id"].isin(load_tasks("arc-agi-1/evaluation"))]
    means = average_outputs(fresh)
    print(f"of these, the {fresh['task_id'].nunique()} evaluation tasks alone: ", end="")
    print(", ".join(f"{metric} {means[metric]:.1%}" for metric in ROWS))
    print(f"score of {submission}: {score_submission(submission, tasks):.1%}")
    print(f"to browse: {args.into / 'pool.html'}   ({time.monotonic() - start:.0f} s)")


if __name__ == "__main__":
    main()
