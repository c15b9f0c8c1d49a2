"""Comparison with the solutions: the result for all at once equals that one at a time."""

import numpy as np
import pandas as pd
import pytest
from handmade import POOLS, TASKS, make_pool, make_task

from arc_airv.grids import format_grid, parse_grid, same_grid
from arc_airv.metrics.solutions import (
    find_right,
    number_outputs,
    right_ranks,
    score_predictions,
    solutions_of,
)
from arc_airv.tasks import hide_outputs
from arc_airv.vote.rank import rank_candidates


@pytest.mark.parametrize("seed", range(3))
def test_all_at_once_is_one_at_a_time(seed):
    rng = np.random.default_rng(seed)
    shapes = [(1, 1), (2, 3), (3, 2), (30, 30), (1, 6)]
    drawn = [format_grid(rng.integers(0, 3, shape)) for shape in shapes * 3]
    tasks = {f"t{i}": make_task(f"t{i}", *rng.choice(drawn, 1 + i % 3)) for i in range(5)}
    frame = pd.concat(
        make_pool(task_id, i, *[(rng.choice([*drawn, None]), -1.0) for _ in range(20)])
        for task_id, task in tasks.items()
        for i in range(len(task.test))
    )
    frame = frame.sample(frac=1.0, random_state=seed)
    scored = score_predictions(frame, tasks)
    assert scored["grid"].tolist() == frame["grid"].tolist()
    for row in scored.itertuples():
        target = tasks[row.task_id].test[row.test_index].output
        grid = parse_grid(row.grid) if isinstance(row.grid, str) else None
        same_shape = grid is not None and grid.shape == target.shape
        assert row.correct == same_grid(target, grid)
        assert row.correct_size == same_shape
        assert row.correct_pixels == ((grid == target).mean() if same_shape else 0)
        assert row.answered == (grid is not None)
    assert find_right(frame, tasks).tolist() == (scored["correct"] == 1).tolist()


def test_a_grid_that_is_none_is_refused():
    with pytest.raises(ValueError, match="ragged"):
        score_predictions(make_pool("four", 0, ("12|34", -1.0), ("12|3", -1.0)), TASKS)


def test_solutions_are_in_the_order_of_the_tasks():
    assert solutions_of(TASKS).to_numpy().tolist() == [
        ["four", 0, "12|34"], ["two", 0, "5"], ["two", 1, "67"], ["none", 0, "0"],
        ["invalid", 0, "0"],
    ]  # fmt: skip
    with pytest.raises(ValueError, match="task four: the solution of test output 0 is hidden"):
        solutions_of(hide_outputs(TASKS))


def test_the_rank_of_the_right_grid_of_every_output():
    ranked = rank_candidates(POOLS, method="logprob")
    ranks = right_ranks(ranked.sample(frac=1.0, random_state=0), TASKS)
    assert ranks["task_id"].tolist() == ["four", "two", "two", "none", "invalid"]
    assert ranks["rank"].fillna(0).tolist() == [3, 0, 1, 0, 0]
    assert ranks["votes"].tolist() == [1, 0, 1, 0, 0]
    assert ranks["n_candidates"].tolist() == [3, 1, 2, 0, 0]
    with pytest.raises(ValueError, match="hidden"):
        right_ranks(ranked, hide_outputs(TASKS))
    with pytest.raises(ValueError, match="not in the tasks"):
        right_ranks(ranked, {"four": TASKS["four"]})


def test_outputs_are_numbered_in_the_order_of_the_tasks():
    assert number_outputs(POOLS, TASKS).tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 4, 4]
    assert number_outputs(POOLS.iloc[:0], TASKS).tolist() == []
    assert number_outputs(POOLS, hide_outputs(TASKS)).tolist()[-1] == 4
    with pytest.raises(ValueError, match=r"not in the tasks: \[\('five', 0\)\]"):
        number_outputs(make_pool("five", 0, ("1", -1.0)), TASKS)
    with pytest.raises(ValueError, match="not in the tasks"):
        number_outputs(POOLS, {})
