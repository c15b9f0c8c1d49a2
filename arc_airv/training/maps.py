"""Named maps of a grid: upscale, border, mirror, recolour, gravity, ...

A map is a function of one grid; its name says everything, so what was done to a task can be
written down and done again. Knows nothing of pairs and tasks: `arc_airv.training.rules` makes new
tasks with them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from arc_airv.grids import MAX_SIDE, N_COLORS, Grid

Map = Callable[[Grid], np.ndarray | None]
"""Gives an array of any size, or None where it has no clear meaning; `apply_map` checks it."""


def apply_map(name: str, grid: Grid) -> Grid | None:
    """Map a grid by the name of a map.

    Parameters
    ----------
    name : str
        A key of `MAPS`.
    grid : ndarray of shape (height, width), dtype int8

    Returns
    -------
    ndarray of dtype int8, or None
        A grid; None where the map does not apply: a side would leave 1-30, or the map has no
        clear meaning there (the rarest colour of a grid where two are equally rare).

    Raises
    ------
    ValueError
        If there is no map of this name.
    """
    if name not in MAPS:
        raise ValueError(f"no map {name!r}; there are {', '.join(MAPS)}")
    mapped = MAPS[name](grid)
    if mapped is None or not all(1 <= side <= MAX_SIDE for side in mapped.shape):
        return None
    return np.ascontiguousarray(mapped)


# Maps that lose nothing --------------------------------------------------------------------------


def _recolor(colors: tuple[int, ...], grid: Grid) -> Grid:
    return np.array(colors, dtype=np.int8)[grid]


def _exchange(a: int, b: int) -> Map:
    colors = list(range(N_COLORS))
    colors[a], colors[b] = b, a
    return partial(_recolor, tuple(colors))


def _cycle(k: int) -> Map:
    """Colours 1-9 each become the k-th next; black stays."""
    return partial(_recolor, (0, *((c - 1 + k) % 9 + 1 for c in range(1, N_COLORS))))


def _stretch(rows: int, columns: int, grid: Grid) -> Grid:
    return grid.repeat(rows, axis=0).repeat(columns, axis=1)


def _border(color: int, grid: Grid) -> Grid:
    height, width = grid.shape
    framed = np.full((height + 2, width + 2), color, dtype=np.int8)
    framed[1:-1, 1:-1] = grid
    return framed


def _mesh(color: int, grid: Grid) -> Grid:
    """Lines of one colour between the cells."""
    height, width = grid.shape
    mesh = np.full((2 * height - 1, 2 * width - 1), color, dtype=np.int8)
    mesh[::2, ::2] = grid
    return mesh


def _mirror_right(grid: Grid) -> Grid:
    return np.hstack([grid, np.fliplr(grid)])


def _mirror_down(grid: Grid) -> Grid:
    return np.vstack([grid, np.flipud(grid)])


# Maps that may lose something --------------------------------------------------------------------


def _paint(color: int, grid: Grid) -> Grid:
    """All that is not black takes one colour."""
    return np.where(grid != 0, np.int8(color), grid)


def _frame(color: int, grid: Grid) -> Grid:
    """The outermost cells take one colour."""
    framed = grid.copy()
    framed[[0, -1]] = color
    framed[:, [0, -1]] = color
    return framed


def _touching(mask: np.ndarray) -> np.ndarray:
    """Cells with one of their four neighbours in the mask."""
    touching = np.zeros_like(mask)
    touching[1:] |= mask[:-1]
    touching[:-1] |= mask[1:]
    touching[:, 1:] |= mask[:, :-1]
    touching[:, :-1] |= mask[:, 1:]
    return touching


def _halo(color: int, grid: Grid) -> Grid:
    """Black cells beside another colour take one colour."""
    return np.where((grid == 0) & _touching(grid != 0), np.int8(color), grid)


def _hollow(grid: Grid) -> Grid:
    """Cells that no black cell and no edge of the grid touches become black."""
    edge = np.ones(grid.shape, dtype=bool)
    edge[1:-1, 1:-1] = False
    return np.where(edge | _touching(grid == 0), grid, np.int8(0))


def _fall(axis: int, to_end: bool, grid: Grid) -> Grid:
    """Coloured cells fall through the black ones and keep their order."""
    order = np.argsort((grid != 0) == to_end, axis=axis, kind="stable")
    return np.take_along_axis(grid, order, axis=axis)


def _overlay(flip: Map, grid: Grid) -> Grid:
    """Black cells take the colour of their mirror image."""
    return np.where(grid == 0, flip(grid), grid)


def _trim(grid: Grid) -> Grid | None:
    """The smallest rectangle around all that is not black."""
    rows, columns = np.nonzero(grid)
    if len(rows) == 0:
        return None
    return grid[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def _exchange_extremes(grid: Grid) -> Grid | None:
    """The most and the least frequent colour of the grid change places."""
    counts = np.bincount(grid.ravel(), minlength=N_COLORS)
    colors = np.flatnonzero(counts)
    colors = colors[np.argsort(counts[colors])]
    if len(colors) < 2:
        return None
    ordered = counts[colors]
    # Of colours that tie, a recoloured view would choose another one: no rule.
    if len(colors) > 2 and (ordered[0] == ordered[1] or ordered[-1] == ordered[-2]):
        return None
    return _exchange(colors[0], colors[-1])(grid)


def _left_half(grid: Grid) -> Grid:
    return grid[:, : (grid.shape[1] + 1) // 2]


def _top_half(grid: Grid) -> Grid:
    return grid[: (grid.shape[0] + 1) // 2]


# Kind -> name -> map. Kinds are drawn first: one with 45 names is as likely as one with 2.
# Different grids stay different under these, so they may be applied to inputs.
KEEPING: dict[str, dict[str, Map]] = {
    "turn": {
        "flip": np.fliplr,
        "flop": np.flipud,
        **{f"rot{k}": partial(np.rot90, k=k) for k in (1, 2, 3)},
        "transpose": np.transpose,
        "antitranspose": lambda grid: np.rot90(grid, 2).T,
    },
    "exchange": {
        f"exchange{a}{b}": _exchange(a, b) for a in range(N_COLORS) for b in range(a + 1, N_COLORS)
    },
    "cycle": {f"cycle{k}": _cycle(k) for k in range(1, 9)},
    "stretch": {
        "upscale2": partial(_stretch, 2, 2),
        "upscale3": partial(_stretch, 3, 3),
        "widen2": partial(_stretch, 1, 2),
        "heighten2": partial(_stretch, 2, 1),
    },
    "border": {f"border{c}": partial(_border, c) for c in range(N_COLORS)},
    "mesh": {f"mesh{c}": partial(_mesh, c) for c in range(N_COLORS)},
    "mirror": {
        "mirror_right": _mirror_right,
        "mirror_down": _mirror_down,
        "mirror_both": lambda grid: _mirror_down(_mirror_right(grid)),
    },
    "tile": {
        "tile_right": lambda grid: np.tile(grid, (1, 2)),
        "tile_down": lambda grid: np.tile(grid, (2, 1)),
        "tile_both": lambda grid: np.tile(grid, (2, 2)),
    },
    "roll": {
        f"roll_{way}": partial(np.roll, shift=shift, axis=axis)
        for way, shift, axis in [("up", -1, 0), ("down", 1, 0), ("left", -1, 1), ("right", 1, 1)]
    },
}
# These may make one grid of two; they are for outputs only.
LOSING: dict[str, dict[str, Map]] = {
    "paint": {f"paint{c}": partial(_paint, c) for c in range(1, N_COLORS)},
    "frame": {f"frame{c}": partial(_frame, c) for c in range(N_COLORS)},
    "halo": {f"halo{c}": partial(_halo, c) for c in range(1, N_COLORS)},
    "hollow": {"hollow": _hollow},
    "extremes": {"exchange_extremes": _exchange_extremes},
    "fall": {
        f"fall_{way}": partial(_fall, axis, to_end)
        for way, axis, to_end in [
            ("up", 0, False),
            ("down", 0, True),
            ("left", 1, False),
            ("right", 1, True),
        ]
    },
    "overlay": {
        "overlay_flip": partial(_overlay, np.fliplr),
        "overlay_flop": partial(_overlay, np.flipud),
    },
    "crop": {
        "crop": lambda grid: grid[1:-1, 1:-1],
        "trim": _trim,
        "left_half": _left_half,
        "top_half": _top_half,
        "thin": lambda grid: grid[::2, ::2],
    },
}
MAPS: dict[str, Map] = {
    name: grid_map
    for kinds in (KEEPING, LOSING)
    for maps in kinds.values()
    for name, grid_map in maps.items()
}
RECOLORINGS = frozenset((*KEEPING["exchange"], *KEEPING["cycle"]))
"""Names of the maps that look at the colour of a cell alone."""
