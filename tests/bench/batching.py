"""Measure the speedup of batching: one engine, the same prompts, three ways to send them.

python tests/bench/batching.py --model tests/tiny --prompts 96
"""

import argparse
import tempfile
from pathlib import Path

from arc_airv.engines import VllmEngine
from arc_airv.infer.generate import RunSummary, generate_predictions
from arc_airv.records import read_predictions
from arc_airv.tasks import Task, load_tasks, tasks_that_fit

LABELS = {"prompt": "baseline", "task": "batch all task prompts", "all": "batch all prompts"}
PREDICTIONS = 8  # of each task, as in the seed


def pick_tasks(engine: VllmEngine, n: int, longest: int) -> dict[str, Task]:
    """Return the first n evaluation tasks with one test input and a prompt that is short enough."""
    tasks = load_tasks("arc-agi-1/evaluation")
    tasks = {task_id: task for task_id, task in tasks.items() if len(task.test) == 1}
    measure = engine.prompt_format.measure
    tasks = tasks_that_fit(tasks, longest, lambda task: measure(task, engine, answers=False))
    return dict(list(tasks.items())[:n])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tests/tiny")
    parser.add_argument("--prompts", default=96, type=int)
    parser.add_argument("--longest", default=600, type=int, help="tokens of a prompt")
    args = parser.parse_args()
    engine = VllmEngine(args.model)
    tasks = pick_tasks(engine, args.prompts // PREDICTIONS, args.longest)
    warm_up = dict(list(tasks.items())[:2])
    rows: dict[str, RunSummary] = {}
    with tempfile.TemporaryDirectory() as folder:

        def run(name: str, tasks: dict[str, Task], batching: str) -> RunSummary:
            return generate_predictions(
                tasks,
                engine,
                n_predictions=PREDICTIONS,
                seed=0,
                store=Path(folder) / f"{name}.jsonl",
                batching=batching,
            )

        run("warm-up", warm_up, "all")
        for batching in LABELS:
            rows[batching] = run(batching, tasks, batching)
        counts = {b: len(read_predictions(Path(folder) / f"{b}.jsonl")) for b in LABELS}
    if len(set(counts.values())) != 1:
        raise RuntimeError(f"the batchings gave different numbers of predictions: {counts}")
    print(f"\n{len(tasks)} evaluation tasks x {PREDICTIONS} predictions, {args.model}")
    print({k: v for k, v in engine.describe().items() if k in ("vllm", "torch", "device")})
    print("\n| implementation | inference time | speedup | outside the engine |")
    print("|---|---|---|---|")
    for batching, row in rows.items():
        speedup = rows["prompt"].seconds / row.seconds
        outside = 1 - row.engine_seconds / row.seconds
        print(f"| {LABELS[batching]} | {row.seconds:.1f} s | {speedup:.1f} | {outside:.1%} |")


if __name__ == "__main__":
    main()
