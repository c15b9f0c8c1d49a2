"""Pools small enough to work out every number by hand, and random ones."""

import numpy as np
import pandas as pd

from arc_airv.grids import format_grid, parse_grid
from arc_airv.tasks import Pair, Task


def make_task(task_id, *solutions):
    demonstration = Pair(parse_grid("0"), parse_grid("0"))
    test = tuple(Pair(parse_grid("0"), parse_grid(text)) for text in solutions)
    return Task(task_id, (demonstration,), test)


def make_pool(task_id, test_index, *predictions):
    """Make predictions from (grid, cumulative_logprob), of one token each."""
    frame = pd.DataFrame(predictions, columns=["grid", "cumulative_logprob"])
    return frame.assign(task_id=task_id, test_index=test_index, n_tokens=1)


def even_pool(task_id, test_index, grids):
    """Make one prediction for each of these grids, all of them equally likely."""
    pool = make_pool(task_id, test_index, *((grid, -1.0) for grid in grids))
    return pool.assign(n_tokens=10)


TASKS = {
    "four": make_task("four", "12|34"),
    "two": make_task("two", "5", "67"),
    "none": make_task("none", "0"),
    "invalid": make_task("invalid", "0"),
}
POOLS = pd.concat(
    [
        # Right but least likely; three of four cells right; another shape; no grid.
        make_pool("four", 0, ("12|34", -3.0), ("12|30", -1.0), ("12", -2.0), (None, None)),
        make_pool("two", 0, ("4", -1.0), ("4", -1.0)),  # the right shape, the wrong colour
        make_pool("two", 1, ("60", -2.0), ("67", -1.0)),
        make_pool("invalid", 0, (None, None), (None, None)),
    ],
    ignore_index=True,
)
# Of the outputs four/0, two/0, two/1, none/0, invalid/0.
BY_OUTPUT = {
    "n_predictions": [4, 2, 2, 0, 2],
    "accuracy": [1 / 4, 0, 1 / 2, 0, 0],
    "correct_size": [2 / 4, 1, 1, 0, 0],
    "correct_pixels": [(1 + 3 / 4) / 4, 0, (1 / 2 + 1) / 2, 0, 0],
    "best_correct_size": [1, 1, 1, 0, 0],
    "best_correct_pixels": [1, 0, 1, 0, 0],
    "pass_n": [1, 0, 1, 0, 0],
    "unanswered": [1 / 4, 0, 0, 1, 1],
    "random_2": [3 / 6, 0, 1, 0, 0],  # 3 of the 6 pairs of output four hold the right one
    "vote_1": [0, 0, 1, 0, 0],
    "vote_2": [0, 0, 1, 0, 0],  # in four, two wrong grids are likelier
}
# Averaged over the outputs of a task, then over the four tasks.
BY_TASK_AVERAGE = {
    "accuracy": (1 / 4 + 1 / 4) / 4,
    "correct_size": (1 / 2 + 1) / 4,
    "correct_pixels": (7 / 16 + 3 / 8) / 4,
    "best_correct_size": 2 / 4,
    "best_correct_pixels": (1 + 1 / 2) / 4,
    "pass_n": (1 + 1 / 2) / 4,
    "unanswered": (1 / 4 + 0 + 1 + 1) / 4,
    "random_2": (1 / 2 + 1 / 2) / 4,
    "vote_1": (0 + 1 / 2) / 4,
    "vote_2": (0 + 1 / 2) / 4,
    "voting_accuracy": 1 / 3,
}
BY_OUTPUT_AVERAGE = {
    "accuracy": (1 / 4 + 1 / 2) / 5,
    "correct_size": 2.5 / 5,
    "correct_pixels": (7 / 16 + 3 / 4) / 5,
    "best_correct_size": 3 / 5,
    "best_correct_pixels": 2 / 5,
    "pass_n": 2 / 5,
    "unanswered": 2.25 / 5,
    "random_2": 1.5 / 5,
    "vote_1": 1 / 5,
    "vote_2": 1 / 5,
    "voting_accuracy": 1 / 2,
}
ALL_OUTPUTS_AVERAGE = {
    "accuracy": (1 / 4 + 0) / 4,
    "correct_size": (1 / 2 + 1) / 4,
    "correct_pixels": (7 / 16 + 0) / 4,
    "best_correct_size": 2 / 4,
    "best_correct_pixels": 1 / 4,
    "pass_n": 1 / 4,
    "unanswered": (1 / 4 + 0 + 1 + 1) / 4,
    "random_2": (1 / 2) / 4,
    "vote_1": 0,
    "vote_2": 0,
    "voting_accuracy": 0,
}


def random_data(seed, n_tasks=6, n_most=9):
    """Make tasks of one or two outputs, with pools of different sizes."""
    rng = np.random.default_rng(seed)
    tasks, pools = {}, []
    for t in range(n_tasks):
        solutions = [format_grid(rng.integers(0, 2, (1, 2))) for _ in range(1 + t % 2)]
        tasks[f"t{t}"] = make_task(f"t{t}", *solutions)
        for i in range(len(solutions)):
            predictions = [
                (rng.choice(["00", "01", "10", "11", "0", None]), -rng.random())
                for _ in range(n_most if t == 0 else rng.integers(0, n_most))
            ]
            pools.append(make_pool(f"t{t}", i, *predictions))
    return pd.concat(pools, ignore_index=True), tasks
