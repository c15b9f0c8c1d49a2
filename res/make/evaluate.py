"""Measure a model on evaluation tasks of a range of sizes, for the numbers of its card.

    python res/make/evaluate.py --model res/small --max-tokens 512 --predictions 16

A task's size is the number of tokens of its longest question with its answer. The store keeps the
predictions, so you can stop the command and run it again.
"""

import argparse

from arc_airv.engines import Engine, make_engine
from arc_airv.infer.generate import generate_predictions
from arc_airv.metrics.outputs import bootstrap_interval, score_outputs
from arc_airv.records import read_predictions
from arc_airv.tasks import Task, load_tasks, tasks_that_fit


def make_parser(text: str) -> argparse.ArgumentParser:
    """Make a parser of the model and of the tasks to ask it; sweep.py adds its own options, too."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("--model", default="res/small")
    parser.add_argument("--tasks", default="arc-agi-1/evaluation")
    parser.add_argument("--min-tokens", default=0, type=int)
    parser.add_argument("--max-tokens", default=512, type=int)
    parser.add_argument("--predictions", default=16, type=int)
    parser.add_argument("--engine", default="vllm", choices=["vllm", "transformers"])
    return parser


def open_engine(args: argparse.Namespace) -> tuple[Engine, dict[str, Task]]:
    """Make the engine that the arguments name, and choose their tasks by its tokens."""
    engine = make_engine(args.engine, args.model, {})
    return engine, tasks_between(load_tasks(args.tasks), engine, args.min_tokens, args.max_tokens)


def tasks_between(
    tasks: dict[str, Task], engine: Engine, above: int, up_to: int
) -> dict[str, Task]:
    """Choose the tasks whose longest question with its answer has so many tokens of the engine."""
    measure = engine.prompt_format.measure
    return tasks_that_fit(tasks, up_to, lambda task: measure(task, engine), above=above)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--seed", default=0, type=int)
    parser.add_argument("--store", default="runs/evaluate.jsonl")
    args = parser.parse_args()
    engine, tasks = open_engine(args)
    summary = generate_predictions(
        tasks, engine, n_predictions=args.predictions, seed=args.seed, store=args.store
    )
    predictions = read_predictions(args.store)
    predictions = predictions[predictions["task_id"].isin(tasks)]
    outputs = score_outputs(predictions, tasks)
    print(f"\n{args.model} on {len(tasks)} tasks ({len(outputs)} test outputs) of {args.tasks}")
    print(f"between {args.min_tokens} and {args.max_tokens} tokens, {args.predictions} predictions")
    if summary.n_new:
        print(f"{summary.n_new / summary.seconds:.1f} predictions/s, {args.engine}")
    table = bootstrap_interval(outputs)
    print(f"{table.columns.name:<22}value   95% interval over tasks")
    for metric, (value, low, high) in table.iterrows():
        print(f"{metric:<20} {value:6.1%}   {low:6.1%} - {high:.1%}")
    solved = {m: int(outputs[m].sum()) for m in ("pass_n", "vote_1", "vote_2")}
    print(f"solved outputs: {solved}")


if __name__ == "__main__":
    main()
