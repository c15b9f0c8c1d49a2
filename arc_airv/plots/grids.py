"""Plots of grids: one grid, a task, the ranked candidates of a test output.

Sets grids in rows so that a cell has one size throughout a figure.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from arc_airv.grids import Grid, format_grid, parse_grid
from arc_airv.plots.colors import FAINT, INK, MUTED, PALETTE, RIGHT, WRONG
from arc_airv.tasks import Task

COLORMAP, NORM = ListedColormap(PALETTE, name="arc"), Normalize(0, 9)
# Inches: a figure of grids, the largest cell and grid in it, the space between grids, the lines
# of text above a grid (heading, shape) and a line below.
WIDTH, CELL, SIDE, GAP, HEAD, SHAPE, LINE = 9.0, 0.22, 1.45, 0.24, 0.24, 0.23, 0.17
Box = tuple[float, float, float, float]  # left, top, width and height


def plot_grid(
    grid: Grid, *, ax: Axes | None = None, title: str | None = None, frame: str | None = None
) -> Axes:
    """Draw one grid in the colours of the ARC testing interface.

    By default the title is the shape, height first: "3x5". `frame` is the colour of a frame around
    the grid, a little apart from it.
    """
    ax = plt.gca() if ax is None else ax
    height, width = grid.shape
    # The grid covers the inner half of both strokes, which leaves a frame and a gap.
    for color, linewidth in ((frame, 9), ("white", 5)) if frame else ():
        style = {"edgecolor": color, "linewidth": linewidth, "joinstyle": "miter", "zorder": 0}
        ax.add_patch(Rectangle((-0.5, -0.5), width, height, fill=False, clip_on=False, **style))
    ax.imshow(grid, cmap=COLORMAP, norm=NORM, interpolation="nearest", zorder=1)
    style = {"color": FAINT, "linewidth": min(0.6, 6 / max(grid.shape)), "clip_on": False}
    ax.hlines(np.arange(height + 1) - 0.5, -0.5, width - 0.5, **style)
    ax.vlines(np.arange(width + 1) - 0.5, -0.5, height - 0.5, **style)
    ax.set_title(f"{height}x{width}" if title is None else title, fontsize=8, color=MUTED, pad=7)
    ax.set(xticks=[], yticks=[], frame_on=False)
    return ax


def plot_task(
    task: Task, *, ranked: pd.DataFrame | None = None, n: int = 8, width: float = WIDTH
) -> Figure:
    """Draw the pairs of a task: inputs over outputs, the demonstrations and then the tests.

    A hidden output is drawn as "?". A cell of the pairs has one size throughout: the largest with
    which everything fits into a figure of this width (inches). If `ranked` is given, the candidates
    of each test output are below, as of `plot_candidates`.
    """
    sheet = _Sheet(width)
    _draw_pairs(sheet, task)
    for i in range(len(task.test) if ranked is not None else 0):
        sheet.height += 0.12
        if len(task.test) > 1:
            sheet.write(0.1, 0, f"test {i}", weight="bold", ha="left")
            sheet.height += 0.13
        _draw_candidates(sheet, ranked, task, i, n)
    return sheet.figure()


def plot_candidates(
    ranked: pd.DataFrame, task: Task, test_index: int, *, n: int = 8, width: float = WIDTH
) -> Figure:
    """Draw the solution of a test output, if it is known, and its best candidates by rank.

    Under each candidate are its votes and its mean log-probability (nats per token). Its frame is
    green if it is right and red if it is wrong; there is none if the solution is hidden. If the
    right one is not among the first `n`, it takes the last place. Figures of the same width
    (inches) and n align.
    """
    sheet = _Sheet(width)
    _draw_candidates(sheet, ranked, task, test_index, n)
    return sheet.figure()


class _Sheet:
    """Grids and texts, placed in inches from the left and below `height`, which then grows."""

    def __init__(self, width: float) -> None:
        self.width, self.height = width, 0.0
        self.texts: list[tuple[float, float, str, dict[str, object]]] = []
        self.grids: list[tuple[Grid | None, Box, float, str | None]] = []

    def write(self, x: float, y: float, text: str, **style: object) -> None:
        self.texts.append((x, self.height + y, text, style))

    def place(self, grid: Grid | None, box: Box, cell: float, frame: str | None = None) -> None:
        """Draw a grid, or "?", at the top of a box."""
        x, y, width, height = box
        self.grids.append((grid, (x, self.height + y, width, height), cell, frame))

    def figure(self) -> Figure:
        size = np.array([self.width, self.height])
        figure = plt.figure(figsize=size)
        for x, y, text, style in self.texts:
            style = {"ha": "center", "va": "top", "fontsize": 8, "color": INK, **style}
            figure.text(*((x, self.height - y) / size), text, **style)
        for grid, (x, y, width, height), cell, frame in self.grids:
            corner, extent = (x, self.height - y - height) / size, (width, height) / size
            _draw_grid(figure.add_axes((*corner, *extent)), grid, (width, height), cell, frame)
        return figure


def _draw_pairs(sheet: _Sheet, task: Task) -> None:
    pairs = [*task.train, *task.test]
    names = [f"{part} {i}" for part in ("train", "test") for i in range(len(getattr(task, part)))]
    rows = [pair.input for pair in pairs], [pair.output for pair in pairs]
    margin, split = 0.3, 0.2  # for the names of the rows; between demonstrations and tests
    pitch = (sheet.width - margin - split) / len(pairs)
    cell, widest, _ = _fit([*rows[0], *rows[1]], pitch - GAP)
    pitch = min(pitch, max(widest, 0.5) + GAP)
    heights = [_fit(row, pitch - GAP, cell)[2] for row in rows]
    tops = HEAD + SHAPE, HEAD + 2 * SHAPE + heights[0] + 0.05
    for i, name in enumerate(names):
        x = margin + i * pitch + split * (i >= len(task.train))
        sheet.write(x + (pitch - GAP) / 2, 0.06, name, weight="bold")
        for row, y, height in zip(rows, tops, heights):
            sheet.place(row[i], (x, y, pitch - GAP, height), cell)
    for name, y, height in zip(("input", "output"), tops, heights):
        sheet.write(0.1, y + height / 2, name, rotation=90, va="center", color=MUTED)
    sheet.height += tops[1] + heights[1] + 0.1


def _draw_candidates(sheet: _Sheet, ranked: pd.DataFrame, task: Task, index: int, n: int) -> None:
    if n < 1 or not 0 <= index < len(task.test):
        got = f"n={n}, test_index={index}"
        raise ValueError(f"need n >= 1 and a test output of {task}, got {got}")
    solution = task.test[index].output
    pool = ranked[(ranked["task_id"] == task.task_id) & (ranked["test_index"] == index)]
    right = "" if solution is None else format_grid(solution)
    pool = pool.assign(right=pool["grid"] == right).sort_values("rank")
    shown = pool.head(n)
    if pool["right"].any() and not shown["right"].any():
        shown = pd.concat([pool.head(n - 1), pool[pool["right"]]])
    columns = [] if solution is None else [("solution", solution, None, ())]
    for row in shown.itertuples():
        frame = None if solution is None else RIGHT if row.right else WRONG
        logprob = "" if pd.isna(row.mean_logprob) else f"{row.mean_logprob:.3f} nats"
        caption = f"{row.votes} vote{'s' * (row.votes != 1)}", logprob.replace("-", "−")
        columns.append((f"#{row.rank}", parse_grid(row.grid), frame, caption))

    pitch = sheet.width / (n + (solution is not None))
    cell, _, height = _fit([grid for _, grid, _, _ in columns], pitch - GAP)
    top = HEAD + SHAPE
    for i, (name, grid, frame, caption) in enumerate(columns):
        middle = (i + 0.5) * pitch
        sheet.write(middle, 0.06, name, weight="bold")
        sheet.place(grid, (middle - (pitch - GAP) / 2, top, pitch - GAP, height), cell, frame)
        for line, (text, color) in enumerate(zip(caption, (INK, MUTED))):
            sheet.write(middle, top + height + 0.1 + line * LINE, text, color=color)
    if shown.empty:
        sheet.write(len(columns) * pitch + GAP / 2, top, "no candidates", ha="left")
    sheet.height += top + height + 2 * LINE + 0.2


def _fit(grids: list[Grid | None], width: float, cell: float = CELL) -> tuple[float, float, float]:
    """Return a size of cells with which every grid fits, the largest width and height (inches)."""
    height, widest = np.max([(1, 1), *(grid.shape for grid in grids if grid is not None)], axis=0)
    cell = min(cell, width / widest, SIDE / max(height, widest))
    return cell, cell * widest, cell * height


def _draw_grid(
    ax: Axes, grid: Grid | None, size: tuple[float, float], cell: float, frame: str | None
) -> None:
    """Draw a grid, or "?", at the top of axes of this width and height (inches)."""
    width, height = size
    if grid is None:
        cell, middle = min(width, height), 0.0
        style = {"facecolor": "#F4F4F4", "edgecolor": FAINT, "linewidth": 0.6, "clip_on": False}
        ax.add_patch(Rectangle((-0.5, -0.5), 1, 1, **style))
        ax.text(0, 0, "?", ha="center", va="center", color=MUTED, fontsize=8 + 12 * cell)
        ax.set(xticks=[], yticks=[], frame_on=False)
    else:
        middle = grid.shape[1] / 2 - 0.5
        plot_grid(grid, ax=ax, frame=frame)
    ax.set_xlim(middle - width / cell / 2, middle + width / cell / 2)
    ax.set_ylim(height / cell - 0.5, -0.5)
