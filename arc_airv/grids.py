"""Grids: what is one, and how it is written as a short string.

Knows nothing of tasks, models or prompts. Everything that comes from outside (JSON, a model's
reply, a user) passes through `as_grid`, so the rest of the library can rely on the invariant:
a grid is an int8 array of shape (height, width), both sides 1 to 30, values 0 to 9.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Grid = np.ndarray
"""ndarray of shape (height, width), dtype int8, values 0-9, both sides 1-30."""

MAX_SIDE = 30
N_COLORS = 10


def as_grid(values: Any, *, name: str = "grid") -> Grid:
    """Validate `values` and return them as a grid.

    Parameters
    ----------
    values : nested list or ndarray of shape (height, width)
        Integers 0-9, both sides 1-30.
    name : str, default "grid"
        What the error message calls the value.

    Returns
    -------
    ndarray of shape (height, width), dtype int8
        A new, read-only array.

    Raises
    ------
    ValueError
        If `values` is not a rectangle of integers 0-9 with sides 1-30; the message says which.

    Examples
    --------
    >>> as_grid([[0, 1], [2, 3]])
    array([[0, 1],
           [2, 3]], dtype=int8)
    """
    if not isinstance(values, np.ndarray):
        if not isinstance(values, (list, tuple)) or not values:
            raise ValueError(f"{name} must be a non-empty list of rows, got {_short(values)}")
        for row in values:
            if not isinstance(row, (list, tuple, np.ndarray)) or len(row) == 0:
                raise ValueError(f"{name} must hold non-empty rows, got the row {_short(row)}")
        widths = sorted({len(row) for row in values})
        if len(widths) > 1:
            raise ValueError(f"{name} is ragged: its rows have {widths} cells")
        if any(bool in map(type, row) for row in values):  # numpy would make 0 and 1 of them
            raise ValueError(f"{name} must hold integers 0-9, got {_short(values)}")
    try:
        array = np.asarray(values)
    except ValueError:  # numpy's message names neither the grid nor the cell
        raise ValueError(f"{name} must hold integers 0-9, got {_short(values)}") from None
    if array.ndim != 2:
        raise ValueError(f"{name} must have 2 dimensions, got shape {array.shape}")
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} must hold integers 0-9, got {_short(values)}")
    if not all(1 <= side <= MAX_SIDE for side in array.shape):
        raise ValueError(f"{name} must have sides 1-{MAX_SIDE}, got shape {array.shape}")
    if array.min() < 0 or array.max() >= N_COLORS:
        raise ValueError(f"{name} must hold values 0-9, got {array.min()} to {array.max()}")
    grid = array.astype(np.int8)
    grid.flags.writeable = False
    return grid


def format_grid(grid: Grid) -> str:
    """Write a grid as digits, its rows joined by ``|``: the form kept in records.

    Examples
    --------
    >>> format_grid(np.array([[0, 1, 2], [3, 4, 5]], dtype=np.int8))
    '012|345'
    """
    return "|".join("".join(map(str, row)) for row in grid.tolist())


def parse_grid(text: str) -> Grid:
    """Read back what `format_grid` wrote.

    Raises
    ------
    ValueError
        If `text` is not rows of digits 0-9 of one length, joined by ``|``.

    Examples
    --------
    >>> parse_grid("012|345").shape
    (2, 3)
    """
    rows = text.split("|")
    if not text.isascii() or not all(row.isdigit() for row in rows):
        raise ValueError(f"a grid is written like '012|345', got {_short(text)}")
    if len(set(map(len, rows))) > 1:
        raise ValueError(f"{_short(text)} is ragged: its rows differ in length")
    digits = np.frombuffer("".join(rows).encode(), dtype=np.uint8) - ord("0")
    return as_grid(digits.reshape(len(rows), -1), name=_short(text))


def same_grid(a: Grid | None, b: Grid | None) -> bool:
    """Whether two grids have the same shape and cells; None equals only None."""
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and bool((a == b).all())


def _short(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
