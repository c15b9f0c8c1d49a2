"""Time the analysis of a large run: read, vote, evaluate, draw the curves.

    python tests/bench/analysis.py

The pool is synthetic: the 419 test outputs of ARC-AGI-1's evaluation tasks, 512 predictions each.
The sizes are real, but the predictions are random (see `draw_pool`), so the metrics mean nothing.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from arc_airv.augment import sample_augmentations
from arc_airv.grids import MAX_SIDE, N_COLORS, Grid, format_grid
from arc_airv.metrics.curves import metric_curves
from arc_airv.metrics.outputs import evaluate
from arc_airv.records import Prediction, RecordStore, read_predictions
from arc_airv.studies.selection import fit_selector
from arc_airv.tasks import Pair, Task, load_tasks
from arc_airv.vote.candidates import candidate_features
from arc_airv.vote.filters import FILTERS
from arc_airv.vote.rank import rank_candidates


def draw_pool(task: Task, index: int, n: int, rng: np.random.Generator) -> Iterator[Prediction]:
    """Draw the predictions of one test output.

    A few outputs are easy and most are hard: the share of right predictions is drawn from
    Beta(0.3, 0.9), the share without a grid from Beta(1, 12). A wrong prediction is a new wrong
    grid or repeats an earlier one (a Chinese restaurant process), which gives a few popular
    mistakes and a long tail of single ones.
    """
    pair = task.test[index]
    p_right, p_invalid = rng.beta(0.3, 0.9), rng.beta(1, 12)
    variety = rng.lognormal(np.log(300), 1.2)
    wrong: list[str] = []
    augmentations = sample_augmentations(task, n, seed=0)
    for augmentation in augmentations:
        draw = rng.random()
        if draw < p_invalid:
            text, status = "I cannot tell.\n" * rng.integers(1, 40), "unparsed"
        else:
            status = "ok"
            if draw < p_invalid + (1 - p_invalid) * p_right:
                grid = format_grid(pair.output)
            else:
                is_new = rng.random() * (variety + len(wrong)) <= variety
                grid = draw_mistake(pair, rng) if is_new else wrong[rng.integers(len(wrong))]
                wrong.append(grid)
            text = grid.replace("|", "\n")  # only its length matters
        n_tokens = len(text) + 1
        yield Prediction(
            task_id=task.task_id,
            test_index=index,
            augmentation=str(augmentation),
            sample_index=0,
            grid=grid if status == "ok" else None,
            status=status,
            text=text,
            cumulative_logprob=-n_tokens * float(rng.gamma(1.0, 0.05)),
            n_tokens=n_tokens,
            n_prompt_tokens=2000,
            finish_reason="stop",
            prompt_hash=rng.bytes(8).hex(),
            n_train=len(task.train),
        )


def draw_mistake(pair: Pair, rng: np.random.Generator) -> str:
    """Return the solution with wrong cells, a grid of a wrong shape, or a copy of the input."""
    kind = rng.random()
    if kind < 0.02:
        return format_grid(pair.input)
    grid: Grid = pair.output.copy()
    if kind < 0.2:
        height, width = np.clip(grid.shape + rng.integers(-2, 3, 2), 1, MAX_SIDE)
        grid = np.resize(grid, (height, width))
    n_wrong = min(rng.geometric(0.1), grid.size)
    grid.flat[rng.integers(grid.size, size=n_wrong)] = rng.integers(N_COLORS, size=n_wrong)
    return format_grid(grid)


def write_store(path: Path, tasks: dict[str, Task], n: int) -> None:
    """Write a synthetic pool of n predictions for every test output."""
    rng = np.random.default_rng(0)
    with RecordStore(path, {"task_ids": list(tasks), "settings": {"synthetic": n}}) as store:
        for task in tasks.values():
            for index in range(len(task.test)):
                store.append(draw_pool(task, index, n, rng))


def measure(rows: list[tuple[str, float, float]], step: str, function: Callable[[], Any]) -> Any:
    """Call the function; record its seconds and the peak memory of the process so far (GB)."""
    start = time.perf_counter()
    result = function()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    rows.append((step, seconds, peak))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--predictions", default=512, type=int, help="of each test output")
    parser.add_argument("--store", type=Path, help="kept there, and taken from there if it exists")
    args = parser.parse_args()
    tasks = load_tasks("arc-agi-1/evaluation")
    rows: list[tuple[str, float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        store = args.store or Path(folder) / "predictions.jsonl"
        if not store.exists():
            write_store(store, tasks, args.predictions)
        size = store.stat().st_size
        measure(rows, "(before)", lambda: None)
        predictions = measure(rows, "read", lambda: read_predictions(store))
    for method in ("votes", "logprob", "cells"):
        measure(rows, f"rank by {method}", lambda m=method: rank_candidates(predictions, method=m))
    filtered = {"filters": tuple(FILTERS), "tasks": tasks}
    measure(rows, "rank by votes, filtered", lambda: rank_candidates(predictions, **filtered))
    measure(rows, "every feature", lambda: candidate_features(predictions))
    measure(rows, "fit a selector", lambda: fit_selector(predictions, tasks))
    measure(rows, "evaluate", lambda: evaluate(predictions, tasks))
    measure(rows, "curves", lambda: metric_curves(predictions, tasks))
    distinct = predictions.groupby(["task_id", "test_index"])["grid"].nunique()
    print(
        f"{len(predictions)} predictions, {len(distinct)} test outputs, {distinct.sum()} "
        f"candidates, {size / 1e6:.0f} MB\n\n| step | seconds | peak memory |\n|---|---|---|"
    )
    for step, seconds, peak in rows:
        print(f"| {step} | {seconds:.2f} | {peak:.2f} GB |")


if __name__ == "__main__":
    main()
