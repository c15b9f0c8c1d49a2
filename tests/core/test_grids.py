"""Grids and their text form."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from arc_airv.grids import as_grid, format_grid, parse_grid, same_grid, stack_grids

quick = settings(max_examples=50)
shapes = array_shapes(min_dims=2, max_dims=2, max_side=30)
grids = arrays(np.int8, shapes, elements=st.integers(0, 9))


def test_a_grid_is_an_int8_array_of_height_by_width():
    grid = as_grid([[0, 1, 2], [3, 4, 5]])
    assert grid.shape == (2, 3)
    assert grid.dtype == np.int8
    assert grid.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_grid_is_a_read_only_copy():
    values = np.zeros((2, 2), dtype=np.int64)
    grid = as_grid(values)
    values[0, 0] = 5
    assert grid[0, 0] == 0
    with pytest.raises(ValueError):
        grid[0, 0] = 1


def test_whole_floats_are_integers():
    for values in ([[1.0, 2]], np.array([[1.0, 2.0]])):
        grid = as_grid(values)
        assert grid.dtype == np.int8
        assert grid.tolist() == [[1, 2]]


@pytest.mark.parametrize("shape", [(1, 1), (30, 1), (1, 30), (30, 30)])
def test_sides_of_1_to_30_are_accepted(shape):
    assert as_grid(np.full(shape, 9)).shape == shape
    assert as_grid(np.full(shape, 9).tolist()).shape == shape


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ([[0, 1], [2]], "ragged"),
        ([], "non-empty list of rows"),
        ([[]], "non-empty rows"),
        ([[1], []], "non-empty rows"),
        (None, "non-empty list of rows"),
        (7, "non-empty list of rows"),
        ("012|345", "non-empty list of rows"),
        (["012", "345"], "the row '012'"),
        ([1, 2, 3], "the row 1"),
        ([["1", "2"]], "integers 0-9"),
        ([[1, "2"]], "integers 0-9"),
        ([[1.0, 2.5]], "integers 0-9"),
        ([[float("inf")]], "values 0-9"),
        ([[1, 2.5]], "integers 0-9"),
        ([[float("nan")]], "integers 0-9"),
        ([[True, False]], "integers 0-9"),
        ([[True, 1]], "integers 0-9"),
        ([[None]], "integers 0-9"),
        ([[10**30]], "integers 0-9"),
        ([[1, 10]], "values 0-9, got 1 to 10"),
        ([[-1, 3]], "values 0-9, got -1 to 3"),
        ([[256]], "values 0-9, got 256 to 256"),
        ([[0] * 31], r"sides 1-30, got shape \(1, 31\)"),
        ([[0]] * 31, r"sides 1-30, got shape \(31, 1\)"),
        ([[[1], [2]]], r"2 dimensions, got shape \(1, 2, 1\)"),
        ([[[1], 2]], "integers 0-9"),
        (np.full((2, 2), 0.5), "integers 0-9"),
        (np.zeros((2, 2), dtype=complex), "integers 0-9"),
        (np.zeros((2, 2), dtype=bool), "integers 0-9"),
        (np.zeros(4, dtype=int), "2 dimensions"),
        (np.zeros((0, 3), dtype=int), "sides 1-30"),
    ],
)
def test_what_is_no_grid_is_refused_and_the_fault_named(values, fault):
    with pytest.raises(ValueError, match=fault):
        as_grid(values)


def test_the_error_calls_the_value_by_the_given_name():
    with pytest.raises(ValueError, match="^train.0. input is ragged"):
        as_grid([[0, 1], [2]], name="train[0] input")


def test_the_error_stays_short_for_a_large_value():
    with pytest.raises(ValueError) as caught:
        as_grid([[0.5] * 1000])
    assert len(str(caught.value)) < 120


def test_a_grid_is_written_as_rows_of_digits():
    assert format_grid(as_grid([[0, 1, 2], [3, 4, 5]])) == "012|345"
    assert format_grid(as_grid([[7]])) == "7"
    assert parse_grid("012|345").tolist() == [[0, 1, 2], [3, 4, 5]]


@quick
@given(grids)
def test_parse_grid_reads_back_what_format_grid_wrote(grid):
    assert same_grid(parse_grid(format_grid(grid)), grid)


@quick
@given(st.text(alphabet="0129|x ٣-.", max_size=12))
def test_a_text_is_a_grid_only_if_it_is_how_that_grid_is_written(text):
    try:
        grid = parse_grid(text)
    except ValueError:
        return
    assert format_grid(grid) == text


NO_GRIDS = [
    *["", "|", "01|", "|01", "01||23", "01|2", "0|12", "1|2|34", "0 1", "0a", "-1", "٣", "01\n23"],
    *["0" * 31, "|".join("0" * 31)],
]


@pytest.mark.parametrize("text", NO_GRIDS)
def test_a_text_that_is_no_grid_is_refused(text):
    with pytest.raises(ValueError) as fault:
        parse_grid(text)
    with pytest.raises(ValueError) as among_others:
        list(stack_grids(["01|23", text, "0", "01|45"]))
    assert str(among_others.value) == str(fault.value)


@quick
@given(st.lists(grids, max_size=8), st.randoms(use_true_random=False))
def test_grids_of_one_shape_are_read_together(several, random):
    several += several[: len(several) // 2]
    random.shuffle(several)
    texts = list(map(format_grid, several))
    seen, shapes = [], []
    for rows, stack in stack_grids(texts):
        assert rows.tolist() == sorted(rows)
        assert stack.dtype == np.int8
        assert [format_grid(grid) for grid in stack] == [texts[row] for row in rows]
        seen += rows.tolist()
        shapes.append(stack.shape[1:])
    assert sorted(seen) == list(range(len(texts)))
    assert len(shapes) == len(set(shapes))


def test_grids_are_the_same_if_shape_and_cells_are():
    grid = as_grid([[1, 1]])
    assert same_grid(grid, grid.copy())
    assert not same_grid(grid, as_grid([[1, 2]]))
    assert not same_grid(grid, as_grid([[1], [1]]))
    assert not same_grid(grid, as_grid([[1]]))  # no broadcasting


def test_none_is_the_same_only_as_none():
    assert same_grid(None, None)
    assert not same_grid(None, as_grid([[0]]))
    assert not same_grid(as_grid([[0]]), None)
