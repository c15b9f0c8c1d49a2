"""Named maps of a grid: upscale, border, mirror, recolour, gravity, ...

A map is a function of one grid; its name says everything, so what was done to a task can be
written down and done again. Knows nothing of pairs and tasks: `arc_airv.training.rules` makes new
tasks with them.
"""

from collections.abc import Callable
from functools import partial
from itertools import combinations

import numpy as np

from arc_airv.grids import MAX_SIDE, N_COLORS, Grid

Map = Callable[[Grid], np.ndarray | None]  # an array of any size; `apply_map` checks it


def apply_map(name: str, grid: Grid) -> Grid | None:
    """Map a grid by the name of a map, a key of `MAPS`; any other raises ValueError.

    None where the map does not apply: a side would leave 1-30, or the map has no clear meaning
    there (the rarest colour of a grid where two are equally rare).
    """
    if name not in MAPS:
        raise ValueError(f"no map {name!r}; there are {', '.join(MAPS)}")
    mapped = MAPS[name](grid)
    if mapped is None or not all(1 <= side <= MAX_SIDE for side in mapped.shape):
        return None
    return np.ascontiguousarray(mapped)


def _recolor(changes: dict[int, int], grid: Grid) -> Grid:
    return np.array([changes.get(c, c) for c in range(N_COLORS)], dtype=np.int8)[grid]


def _mesh(color: int, grid: Grid) -> Grid:
    """Draw lines of one colour between the cells."""
    height, width = grid.shape
    mesh = np.full((2 * height - 1, 2 * width - 1), color, dtype=np.int8)
    mesh[::2, ::2] = grid
    return mesh


def _mirror(down: int, right: int, grid: Grid) -> Grid:
    """Write the mirror image below or right of the grid where the number is 2."""
    height, width = grid.shape
    return np.pad(grid, ((0, (down - 1) * height), (0, (right - 1) * width)), "symmetric")


def _frame(color: int, grid: Grid) -> Grid:
    """Give the outermost cells one colour."""
    framed = np.full_like(grid, color)
    framed[1:-1, 1:-1] = grid[1:-1, 1:-1]
    return framed


def _touching(mask: np.ndarray, *, outside: bool) -> np.ndarray:
    """Mark the cells with one of their four neighbours in the mask, which goes on outside."""
    wide = np.pad(mask, 1, constant_values=outside)
    return wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]


def _halo(color: int, grid: Grid) -> Grid:
    """Give black cells beside another colour one colour."""
    return np.where((grid == 0) & _touching(grid != 0, outside=False), np.int8(color), grid)


def _fall(axis: int, step: int, grid: Grid) -> Grid:
    """Let coloured cells fall through the black ones; they keep their order."""
    order = np.argsort((grid != 0) == (step > 0), axis=axis, kind="stable")
    return np.take_along_axis(grid, order, axis=axis)


def _trim(grid: Grid) -> Grid | None:
    """Cut out the smallest rectangle around all that is not black."""
    rows, columns = np.nonzero(grid)
    if len(rows) == 0:
        return None
    return grid[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def _exchange_extremes(grid: Grid) -> Grid | None:
    """Exchange the most and the least frequent colour of the grid."""
    counts = np.bincount(grid.ravel())
    colors = np.flatnonzero((counts == counts.max()) | (counts == counts[counts > 0].min()))
    # Of colours that tie, a recoloured view would choose another one: no rule.
    return _recolor(dict(zip(colors, colors[::-1])), grid) if len(colors) == 2 else None


def _each_color(name: str, grid_map: Callable[[int, Grid], Grid], first: int = 0) -> dict[str, Map]:
    return {f"{name}{color}": partial(grid_map, color) for color in range(first, N_COLORS)}


WAYS = {"up": (0, -1), "down": (0, 1), "left": (1, -1), "right": (1, 1)}  # axis, step
TIMES = {"upscale2": (2, 2), "upscale3": (3, 3), "widen2": (1, 2), "heighten2": (2, 1)}
TWICE = {"right": (1, 2), "down": (2, 1), "both": (2, 2)}  # down, right
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
        f"exchange{a}{b}": partial(_recolor, {a: b, b: a})
        for a, b in combinations(range(N_COLORS), 2)
    },
    "cycle": {  # colours 1-9 each become the k-th next; black stays
        f"cycle{k}": partial(_recolor, {c: (c - 1 + k) % 9 + 1 for c in range(1, N_COLORS)})
        for k in range(1, 9)
    },
    "stretch": {name: partial(np.kron, b=np.ones(t, np.int8)) for name, t in TIMES.items()},
    "border": _each_color("border", lambda color, grid: np.pad(grid, 1, constant_values=color)),
    "mesh": _each_color("mesh", _mesh),
    "mirror": {f"mirror_{way}": partial(_mirror, *times) for way, times in TWICE.items()},
    "tile": {f"tile_{way}": partial(np.tile, reps=times) for way, times in TWICE.items()},
    "roll": {
        f"roll_{way}": partial(np.roll, shift=step, axis=axis) for way, (axis, step) in WAYS.items()
    },
}
# These may make one grid of two; they are for outputs only.
LOSING: dict[str, dict[str, Map]] = {
    # All that is not black takes one colour.
    "paint": _each_color("paint", lambda c, grid: np.where(grid, np.int8(c), grid), first=1),
    "frame": _each_color("frame", _frame),
    "halo": _each_color("halo", _halo, first=1),
    # Cells become black that no black cell and no edge of the grid touches.
    "hollow": {"hollow": lambda grid: grid * _touching(grid == 0, outside=True)},
    "extremes": {"exchange_extremes": _exchange_extremes},
    "fall": {f"fall_{way}": partial(_fall, axis, step) for way, (axis, step) in WAYS.items()},
    "overlay": {  # black cells take the colour of their mirror image
        "overlay_flip": lambda grid: np.where(grid, grid, np.fliplr(grid)),
        "overlay_flop": lambda grid: np.where(grid, grid, np.flipud(grid)),
    },
    "crop": {
        "crop": lambda grid: grid[1:-1, 1:-1],
        "trim": _trim,
        "left_half": lambda grid: grid[:, : (grid.shape[1] + 1) // 2],
        "top_half": lambda grid: grid[: (grid.shape[0] + 1) // 2],
        "thin": lambda grid: grid[::2, ::2],
    },
}
MAPS: dict[str, Map] = {
    name: grid_map for maps in (KEEPING | LOSING).values() for name, grid_map in maps.items()
}
RECOLORINGS = KEEPING["exchange"] | KEEPING["cycle"]  # they look at the colour of a cell alone
