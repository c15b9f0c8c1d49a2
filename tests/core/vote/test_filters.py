"""Filters: the candidates ruled out by hand-made tasks, and the errors on real solutions."""

import numpy as np
import pandas as pd
import pytest
from handmade import make_pool

from arc_airv.augment import Augmentation
from arc_airv.grids import as_grid, format_grid, parse_grid
from arc_airv.studies.selection import filter_errors
from arc_airv.tasks import Pair, Task, hide_outputs, load_tasks
from arc_airv.vote.filters import FILTERS, expected_shapes, rule_out
from arc_airv.vote.rank import rank_candidates, select_attempts


def make_task(*pairs, test="0", task_id="a"):
    """Make a task from demonstrations as "input > output" and one hidden test output."""
    sides = [[parse_grid(text) for text in pair.split(" > ")] for pair in pairs]
    return Task(task_id, tuple(Pair(*s) for s in sides), (Pair(parse_grid(test)),))


def sized(*sizes, test):
    """Make a task of the given sizes, "input > output" as height x width."""

    def grid(size):
        return as_grid(np.zeros([int(side) for side in size.split("x")], dtype=int))

    pairs = [Pair(*map(grid, size.split(" > "))) for size in sizes]
    return Task("a", tuple(pairs), (Pair(grid(test)),))


def ruled_out(task, *grids, filters=tuple(FILTERS)):
    frame = pd.DataFrame({"task_id": task.task_id, "test_index": 0, "grid": grids})
    table = rule_out(frame, {task.task_id: task}, filters=filters)
    return [[name for name in table if row[name]] for _, row in table.iterrows()]


# Each filter -------------------------------------------------------------------------------------


def test_a_copy_of_the_test_input_is_ruled_out():
    task = make_task("12 > 21", "13 > 31", test="23")
    assert ruled_out(task, "23", "32") == [["copy"], []]


def test_a_copy_is_possible_where_a_demonstration_copies():
    task = make_task("12 > 21", "11 > 11", test="22")
    assert ruled_out(task, "22", filters=["copy"]) == [[]]


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (sized("2x3 > 2x3", "4x4 > 4x4", test="5x1"), {(5, 1)}),  # as the input
        (sized("2x3 > 3x3", "4x4 > 3x3", test="5x1"), {(3, 3)}),  # always the same
        (sized("2x3 > 4x9", "4x4 > 8x12", test="5x1"), {(10, 3)}),  # twice as high, 3 times as wide
        (sized("2x3 > 1x1", "6x9 > 3x3", test="4x6"), {(2, 2)}),  # a half and a third
        (sized("2x4 > 3x6", "4x4 > 6x6", test="6x2"), {(9, 3)}),  # one and a half
        (sized("2x4 > 3x6", "4x4 > 6x6", test="5x2"), set()),  # 5 has no such multiple
        (sized("3x3 > 3x3", "3x3 > 3x3", test="5x5"), {(3, 3), (5, 5)}),  # either rule fits
        (sized("3x3 > 6x6", test="4x4"), {(6, 6), (8, 8)}),
        (sized("3x3 > 2x2", "4x4 > 3x3", test="5x5"), set()),  # no known pattern
    ],
)
def test_the_shapes_that_the_demonstrations_leave(task, expected):
    assert expected_shapes(task, 0) == expected
    shapes = [(h, w) for h in range(1, 13) for w in range(1, 13)]
    grids = [format_grid(np.zeros(shape, dtype=np.int8)) for shape in shapes]
    possible = {s for s, out in zip(shapes, ruled_out(task, *grids, filters=["shape"])) if not out}
    assert possible == (expected or set(shapes))


def test_grids_of_equal_length_but_another_shape_are_told_apart():
    task = sized("2x3 > 2x3", "4x4 > 4x4", test="2x3")
    assert ruled_out(task, "000|000", "00|00|00", "0000000", filters=["shape"]) == [
        [], ["shape"], ["shape"]
    ]  # fmt: skip


def test_colours_of_demonstrated_outputs_and_of_the_test_input_are_possible():
    task = make_task("12 > 34", "15 > 36", test="78")
    assert ruled_out(task, "33", "46", "78", "37", filters=["colors"]) == [[]] * 4
    # 1 and 5 are only in demonstrated inputs, 9 is nowhere.
    assert ruled_out(task, "13", "53", "39", filters=["colors"]) == [["colors"]] * 3


def test_a_grid_may_be_ruled_out_for_several_reasons():
    task = make_task("12 > 2", "34 > 4", test="55")
    assert ruled_out(task, "55", "99", "5") == [["copy", "shape"], ["shape", "colors"], []]


def test_a_filter_may_be_a_function_of_ones_own():
    def is_black(task, test_index):
        return lambda grid: grid.strip("0|") == ""

    assert ruled_out(make_task("1 > 2"), "0", "2", filters=[is_black]) == [["is_black"], []]


def test_candidates_keep_their_index():
    task = make_task("12 > 21", "13 > 31", test="23")
    frame = make_pool("a", 0, ("23", -1.0), ("32", -1.0)).set_index(pd.Index([7, 3]))
    table = rule_out(frame, {"a": task})
    assert list(table) == ["copy", "shape", "colors"]
    assert table.index.tolist() == [7, 3]
    assert rule_out(frame.iloc[:0], {"a": task}).shape == (0, 3)


def test_unknown_filters_and_outputs_are_refused():
    frame, tasks = make_pool("a", 0, ("1", -1.0)), {"a": make_task("1 > 2")}
    with pytest.raises(ValueError, match=r"one of \['colors', 'copy', 'shape'\], got 'size'"):
        rule_out(frame, tasks, filters=["size"])
    with pytest.raises(ValueError, match=r"must be a sequence such as \('copy',\)"):
        rule_out(frame, tasks, filters="copy")
    with pytest.raises(ValueError, match="no test output 1 of task 'a'"):
        rule_out(frame.assign(test_index=1), tasks)
    with pytest.raises(ValueError, match="no test output 0 of task 'b'"):
        rule_out(frame.assign(task_id="b"), tasks)
    with pytest.raises(ValueError, match=r"candidates lack the columns \['grid'\]"):
        rule_out(frame.drop(columns="grid"), tasks)


# In a ranking ------------------------------------------------------------------------------------

TASK = make_task("12 > 21", "13 > 31", test="23")
TASKS = {"a": TASK}


def test_what_is_ruled_out_goes_behind_the_rest_in_its_own_order():
    # By votes 23, 99, 3, 31, 32: filters rank the copy, unseen colours and a wrong shape last.
    rows = [("23", 5), ("99", 4), ("3", 3), ("31", 2), ("32", 1)]
    pool = make_pool("a", 0, *[(grid, -1.0) for grid, n in rows for _ in range(n)])
    assert rank_candidates(pool)["grid"].tolist() == ["23", "99", "3", "31", "32"]
    ranked = rank_candidates(pool, filters=("copy", "shape", "colors"), tasks=TASKS)
    assert ranked["grid"].tolist() == ["31", "32", "23", "99", "3"]
    assert ranked["rank"].tolist() == [1, 2, 3, 4, 5]
    assert ranked["votes"].tolist() == [2, 1, 5, 4, 3]
    only_copy = rank_candidates(pool, filters=["copy"], tasks=TASKS)
    assert only_copy["grid"].tolist() == ["99", "3", "31", "32", "23"]


@pytest.mark.parametrize("method", ["votes", "logprob", "cells"])
def test_nothing_vanishes_where_everything_is_ruled_out(method):
    pool = make_pool("a", 0, ("23", -1.0), ("99", -2.0), ("23", -1.0))
    filtered = rank_candidates(pool, method=method, filters=FILTERS, tasks=TASKS)
    pd.testing.assert_frame_equal(filtered, rank_candidates(pool, method=method))
    assert len(select_attempts(filtered, TASKS)["a"][0]) == 2


def test_a_composed_grid_is_filtered_too():
    # The vote by cell composes 231: the test input, which no prediction gave.
    task = make_task("123 > 321", "132 > 231", test="231")
    pool = make_pool("a", 0, ("131", -1.0), ("221", -1.0), ("233", -1.0))
    assert rank_candidates(pool, method="cells")["grid"][0] == "231"
    filtered = rank_candidates(pool, method="cells", filters=["copy"], tasks={"a": task})
    assert filtered["grid"].tolist()[-1] == "231"


def test_filters_need_tasks():
    with pytest.raises(ValueError, match="filters need tasks="):
        rank_candidates(make_pool("a", 0, ("23", -1.0)), filters=["copy"])


# On real tasks -----------------------------------------------------------------------------------


def wrong(tasks):
    return filter_errors(tasks)["wrong"].to_dict()


def test_of_the_solutions_of_real_tasks_hardly_any_is_ruled_out(training_tasks):
    training = filter_errors(training_tasks)
    assert list(training.index) == ["copy", "shape", "colors", "any"]
    assert (training["outputs"] == 416).all()
    assert training["wrong"].tolist() == [0, 1, 0, 1]
    assert training["rate"]["any"] == 1 / 416
    assert training["task_ids"]["shape"] == ["c909285e"]
    assert wrong(load_tasks("arc-agi-1/evaluation")) == dict.fromkeys([*FILTERS, "any"], 0)


def test_filters_see_no_solution(training_tasks):
    tasks = dict(list(training_tasks.items())[:100])
    frame = pd.DataFrame(
        [
            (task_id, i, format_grid(grid))
            for task_id, task in tasks.items()
            for i, pair in enumerate(task.test)
            for grid in (pair.input, pair.output, task.train[0].input, task.train[0].output)
        ],
        columns=["task_id", "test_index", "grid"],
    )
    table = rule_out(frame, tasks)
    pd.testing.assert_frame_equal(rule_out(frame, hide_outputs(tasks)), table)
    assert 0 < table.to_numpy().mean() < 0.5

    # The result is the same in every frame.
    augmentation = Augmentation(True, 1, "1234567890")
    views = {task_id: augmentation.apply_task(task) for task_id, task in tasks.items()}
    grids = [format_grid(augmentation.apply_grid(parse_grid(g))) for g in frame["grid"]]
    pd.testing.assert_frame_equal(rule_out(frame.assign(grid=grids), views), table)
