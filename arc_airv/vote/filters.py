"""Filters: candidates that the demonstrations of a task rule out.

A filter is a function of a task and the index of a test output; it returns a function that is True
for each grid, as text, that is ruled out. It can be wrong (`arc_airv.studies.filter_errors` counts
that), so what it rules out is only put behind the rest, see `arc_airv.vote.rank_candidates`.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import pandas as pd

from arc_airv.grids import format_grid, same_grid
from arc_airv.tasks import Task, check_output
from arc_airv.vote.candidates import CANDIDATE, POOL, check_columns

Shape = tuple[int, int]
Rule = Callable[[str], bool]
Filter = Callable[[Task, int], Rule]


def is_copy(task: Task, test_index: int) -> Rule:
    """Rule out copies of the test input, unless a demonstration's output is its input."""
    if any(same_grid(pair.input, pair.output) for pair in task.train):
        return lambda grid: False
    copied = format_grid(task.test[test_index].input)
    return lambda grid: grid == copied


def is_impossible_shape(task: Task, test_index: int) -> Rule:
    """Rule out shapes that `expected_shapes` does not hold."""
    expected = expected_shapes(task, test_index)
    if not expected:
        return lambda grid: False
    # A text tells by its length and its number of rows.
    sizes = {(height * (width + 1) - 1, height - 1) for height, width in expected}
    return lambda grid: (len(grid), grid.count("|")) not in sizes


def has_unseen_color(task: Task, test_index: int) -> Rule:
    """Rule out grids with a colour that is in no demonstration's output, nor in the test input."""
    seen = [format_grid(pair.output) for pair in task.train]
    allowed = set("|".join([*seen, format_grid(task.test[test_index].input)])) | {"|"}
    return lambda grid: not allowed.issuperset(grid)


FILTERS = {"copy": is_copy, "shape": is_impossible_shape, "colors": has_unseen_color}


def expected_shapes(task: Task, test_index: int) -> set[Shape]:
    """Return the shapes (height, width) that the demonstrations leave to a test output.

    One for each of two patterns that fits all demonstrations: the outputs have one shape; the ratio
    of output to input is the same in all (1, a whole number or a fraction), each side with its own.
    Empty if neither fits: then nothing is known.
    """
    shapes = {pair.output.shape for pair in task.train}
    expected = shapes if len(shapes) == 1 else set()
    ratios = {tuple(map(Fraction, pair.output.shape, pair.input.shape)) for pair in task.train}
    if len(ratios) == 1:
        sides = [r * side for r, side in zip(ratios.pop(), task.test[test_index].input.shape)]
        if all(side.denominator == 1 for side in sides):
            expected.add((int(sides[0]), int(sides[1])))
    return expected


def rule_out(
    candidates: pd.DataFrame,
    tasks: dict[str, Task],
    *,
    filters: Sequence[str | Filter] = tuple(FILTERS),
) -> pd.DataFrame:
    """Let each filter, by its name in `FILTERS` or a function like `is_copy`, judge each candidate.

    Returns
    -------
    DataFrame
        One row a candidate, with its index; one column a filter, True where it is ruled out.

    Raises
    ------
    ValueError
        If a filter is unknown or gives what is no rule, or a candidate is of an output that `tasks`
        does not have.
    """
    if isinstance(filters, str):
        raise ValueError(f"filters must be a sequence such as ({filters!r},), got {filters!r}")
    check_columns(candidates, CANDIDATE, name="candidates")
    if unknown := [name for name in filters if not callable(name) and name not in FILTERS]:
        known = sorted(FILTERS)
        raise ValueError(f"a filter must be a function or one of {known}, got {unknown[0]!r}")
    chosen = [(f.__name__, f) if callable(f) else (f, FILTERS[f]) for f in filters]
    out = np.zeros((len(candidates), len(chosen)), dtype=bool)
    grids = candidates["grid"].to_numpy(dtype=object)
    for (task_id, test_index), rows in candidates.groupby(POOL, sort=False).indices.items():
        check_output(tasks, task_id, test_index)
        for column, (_, make_rule) in enumerate(chosen):
            rule = make_rule(tasks[task_id], test_index)
            verdicts = list(map(rule, grids[rows])) if callable(rule) else [rule]
            if other := [v for v in verdicts if not isinstance(v, (bool, np.bool_))]:
                raise ValueError(
                    f"the filter {chosen[column][0]} must return a function of a grid that is True "
                    f"or False, got {other[0]!r} for task {task_id}"
                )
            out[rows, column] = verdicts
    return pd.DataFrame(out, index=candidates.index, columns=[name for name, _ in chosen])
