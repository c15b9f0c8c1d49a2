"""Plots: grids, tasks, ranked candidates, and the metrics of predictions.

Knows the palette of the ARC testing interface, and how to set grids in rows so that a cell has one
size throughout a figure. Draws the tables that `arc_airv.vote` and `arc_airv.metrics` give, and
computes no metric. Shows no figure and saves none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from arc_airv.grids import Grid, parse_grid, same_grid
from arc_airv.tasks import Task
from arc_airv.vote import POOL

PALETTE = "#000000 #0074D9 #FF4136 #2ECC40 #FFDC00 #AAAAAA #F012BE #FF851B #7FDBFF #870C25".split()
COLORMAP, NORM = ListedColormap(PALETTE, name="arc"), Normalize(0, 9)
RIGHT, WRONG, UNKNOWN = "#1A9850", "#D7301F", "#8C8C8C"
INK, MUTED, FAINT = "#222222", "#6B6B6B", "#D3D3D3"
METRIC_COLORS = {  # so that a metric has one colour in every plot
    **{"pass_n": "#1A9850", "vote_2": "#2166AC", "vote_1": "#74ADD1", "random_2": "#B2ABD2"},
    **{"accuracy": "#8C8C8C", "unanswered": "#D7301F"},
    **{"best_correct_size": "#B35806", "best_correct_pixels": "#542788"},
    **{"correct_size": "#E08214", "correct_pixels": "#9E8AC4"},
}
# Inches: a figure of grids, the largest cell and grid in it, the space between grids, the lines
# of text above a grid (heading, shape) and a line below.
WIDTH, CELL, SIDE, GAP, HEAD, SHAPE, LINE = 9.0, 0.22, 1.45, 0.24, 0.24, 0.23, 0.17


def plot_grid(
    grid: Grid, *, ax: Axes | None = None, title: str | None = None, frame: str | None = None
) -> Axes:
    """Draw one grid in the colours of the ARC testing interface.

    Parameters
    ----------
    grid : ndarray of shape (height, width)
    ax : Axes, optional
        By default the current one.
    title : str, optional
        By default the shape, height first: "3x5".
    frame : colour, optional
        Of a frame around the grid, a little apart from it.

    Returns
    -------
    Axes
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


def plot_task(task: Task, *, width: float = WIDTH) -> Figure:
    """Draw the pairs of a task: inputs over outputs, the demonstrations and then the tests.

    Parameters
    ----------
    task : Task
        A hidden output is drawn as "?".
    width : float, default 9
        Of the figure, in inches.

    Returns
    -------
    Figure
        A cell has one size throughout: the largest with which everything fits.
    """
    pairs = [*task.train, *task.test]
    names = [f"train {i}" for i in range(len(task.train))]
    names += [f"test {i}" for i in range(len(task.test))]
    rows = [pair.input for pair in pairs], [pair.output for pair in pairs]
    margin, split = 0.3, 0.2  # for the names of the rows; between demonstrations and tests
    pitch = (width - margin - split) / len(pairs)
    cell, widest, _ = _fit([*rows[0], *rows[1]], pitch - GAP)
    pitch = min(pitch, max(widest, 0.5) + GAP)
    heights = [_fit(row, pitch - GAP, cell)[2] for row in rows]
    tops = HEAD + SHAPE, HEAD + 2 * SHAPE + heights[0] + 0.05
    figure = plt.figure(figsize=(width, tops[1] + heights[1] + 0.1))
    for i, name in enumerate(names):
        x = margin + i * pitch + split * (i >= len(task.train))
        _write(figure, x + (pitch - GAP) / 2, 0.06, name, weight="bold")
        for row, y, height in zip(rows, tops, heights):
            _place(figure, row[i], (x, y, pitch - GAP, height), cell)
    for name, y, height in zip(("input", "output"), tops, heights):
        _write(figure, 0.1, y + height / 2, name, rotation=90, va="center", color=MUTED)
    return figure


def plot_candidates(
    ranked: pd.DataFrame, task: Task, test_index: int, *, n: int = 8, width: float = WIDTH
) -> Figure:
    """Draw the solution of a test output, if it is known, and its best candidates by rank.

    Parameters
    ----------
    ranked : DataFrame
        As `arc_airv.vote.rank_candidates` gives it; the rows of other outputs are left out.
    task : Task
    test_index : int
    n : int, default 8
        Candidates at most. If the right one ranks lower, it takes the last place.
    width : float, default 9
        Of the figure, in inches. All columns are equally wide, so that figures align.

    Returns
    -------
    Figure
        Under each candidate its votes and its mean log-probability (nats per token). Its frame
        is green if it is right and red if it is wrong; there is none if the solution is hidden.
    """
    if n < 1 or not 0 <= test_index < len(task.test):
        raise ValueError(
            f"need n >= 1 and a test output of {task}, got n={n}, test_index={test_index}"
        )
    solution = task.test[test_index].output
    pool = ranked[(ranked["task_id"] == task.task_id) & (ranked["test_index"] == test_index)]
    pool = pool.sort_values("rank")
    right = [same_grid(solution, parse_grid(text)) for text in pool["grid"]]
    pool = pool.assign(right=np.array(right, dtype=bool))
    shown = pool.head(n)
    if pool["right"].any() and not shown["right"].any():
        shown = pd.concat([pool.head(n - 1), pool[pool["right"]]])
    columns = [] if solution is None else [("solution", solution, None, ())]
    for row in shown.itertuples():
        frame = None if solution is None else RIGHT if row.right else WRONG
        logprob = "" if pd.isna(row.mean_logprob) else f"{row.mean_logprob:.3f} nats"
        caption = f"{row.votes} vote{'s' * (row.votes != 1)}", logprob.replace("-", "−")
        columns.append((f"#{row.rank}", parse_grid(row.grid), frame, caption))

    pitch = width / (n + (solution is not None))
    cell, _, height = _fit([grid for _, grid, _, _ in columns], pitch - GAP)
    top = HEAD + SHAPE
    figure = plt.figure(figsize=(width, top + height + 2 * LINE + 0.2))
    for i, (name, grid, frame, caption) in enumerate(columns):
        middle = (i + 0.5) * pitch
        _write(figure, middle, 0.06, name, weight="bold")
        _place(figure, grid, (middle - (pitch - GAP) / 2, top, pitch - GAP, height), cell, frame)
        for line, (text, color) in enumerate(zip(caption, (INK, MUTED))):
            _write(figure, middle, top + height + 0.1 + line * LINE, text, color=color)
    if shown.empty:
        _write(figure, len(columns) * pitch + GAP / 2, top, "no candidates", ha="left")
    return figure


def plot_curves(
    curves: pd.DataFrame, *, metrics: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """Draw metrics against the number of predictions, each with its interval as a band.

    Parameters
    ----------
    curves : DataFrame
        As `arc_airv.curves.metric_curves` gives it: columns metric, n, value, low, high.
    metrics : sequence of str, optional
        Which of them; by default all.
    ax : Axes, optional
        By default the current one.

    Returns
    -------
    Axes
        Its x axis is logarithmic, of base 2; each line ends in its name and last value.
    """
    by_metric = dict(list(curves.sort_values("n").groupby("metric", sort=False)))
    metrics = list(by_metric) if metrics is None else list(metrics)
    _check_metrics(metrics, by_metric)
    ax = plt.gca() if ax is None else ax
    for metric in metrics:
        n, value, low, high = by_metric[metric][["n", "value", "low", "high"]].to_numpy().T
        style = {"linewidth": 1.6, "markersize": 3, "clip_on": False}
        (line,) = ax.plot(n, value, "o-", label=metric, color=METRIC_COLORS.get(metric), **style)
        ax.fill_between(n, low, high, color=line.get_color(), alpha=0.1, linewidth=0)
    ticks = sorted(curves["n"].unique())
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, labels=map(str, ticks))
    ax.set_xticks([], minor=True)
    ax.set_xlabel("predictions per output")
    ax.margins(x=0.01)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    _label_ends(_tidy(ax))
    return ax


def plot_metric_distribution(outputs: pd.DataFrame, metric: str, *, ax: Axes | None = None) -> Axes:
    """Draw how a metric is distributed over the test outputs, and its mean over the tasks.

    Parameters
    ----------
    outputs : DataFrame
        As `arc_airv.metrics.score_outputs` gives it.
    metric : str
        One of its columns.
    ax : Axes, optional
        By default the current one.

    Returns
    -------
    Axes
    """
    _check_metrics([metric], outputs.columns)
    ax = _plot_shares([outputs[metric]], [METRIC_COLORS.get(metric, UNKNOWN)], 20, ax)
    mean = outputs.groupby("task_id")[metric].mean().mean()
    ax.axvline(mean, color=INK, linewidth=0.8)
    ax.set_title(f"{metric}, mean {mean:.1%}", fontsize=9, color=INK)
    return ax


def plot_agreement(ranked: pd.DataFrame, tasks: dict[str, Task], *, ax: Axes | None = None) -> Axes:
    """Draw which share of the votes the first candidates have, and whether they are right.

    Parameters
    ----------
    ranked : DataFrame
        As `arc_airv.vote.rank_candidates` gives it.
    tasks : dict of str to Task
    ax : Axes, optional
        By default the current one.

    Returns
    -------
    Axes
        With stacked bars: green for right, red for wrong, grey where the solution is hidden.
    """
    share = ranked["votes"] / ranked.groupby(POOL)["votes"].transform("sum")
    shares = {"right": [], "wrong": [], "hidden": []}
    for row in ranked.assign(share=share)[ranked["rank"] == 1].itertuples():
        solution = tasks[row.task_id].test[row.test_index].output
        right = "right" if same_grid(solution, parse_grid(row.grid)) else "wrong"
        shares["hidden" if solution is None else right].append(row.share)
    ax = _plot_shares(list(shares.values()), [RIGHT, WRONG, UNKNOWN], 10, ax)
    ax.set_title("share of the votes of the first candidate", fontsize=9, color=INK)
    bars = {kind: bar for kind, bar in zip(shares, ax.containers) if shares[kind]}
    style = {"loc": "upper left", "frameon": False, "fontsize": 8, "labelcolor": MUTED}
    ax.legend(bars.values(), bars, bbox_to_anchor=(1, 1), **style)
    return ax


def plot_output_sizes(
    outputs: pd.DataFrame, tasks: dict[str, Task], metric: str, *, ax: Axes | None = None
) -> Axes:
    """Draw a metric by the size of the solutions.

    Parameters
    ----------
    outputs : DataFrame
        As `arc_airv.metrics.score_outputs` gives it.
    tasks : dict of str to Task
    metric : str
        A column of `outputs`.
    ax : Axes, optional
        By default the current one.

    Returns
    -------
    Axes
        With one disc a size: its area grows with the number of outputs, its colour is their mean.
    """
    _check_metrics([metric], outputs.columns)
    ax = plt.gca() if ax is None else ax
    shapes = [tasks[t].test[i].output.shape for t, i in outputs[POOL].itertuples(index=False)]
    rows, columns = np.array(shapes).T
    sizes = outputs[metric].groupby([columns, rows]).agg(["mean", "size"])
    sizes = sizes.sort_values("size", ascending=False, kind="stable")  # small discs on large ones
    x, y = np.array(sizes.index.to_list()).T
    style = {"cmap": "viridis", "vmin": 0, "vmax": 1, "linewidth": 0, "clip_on": False}
    area = 20 + 140 * (sizes["size"] - 1) / max(10, sizes["size"].max() - 1)
    discs = ax.scatter(x, y, s=area, c=sizes["mean"], **style)
    percent = PercentFormatter(1.0, decimals=0)
    bar = ax.figure.colorbar(discs, ax=ax, shrink=0.7, aspect=24, format=percent, label=metric)
    bar.outline.set_visible(False)
    _tidy(bar.ax, grid=None)
    ticks = [1, 5, 10, 15, 20, 25, 30]
    ax.set(xlim=(0, 31), ylim=(0, 31), xticks=ticks, yticks=ticks, aspect="equal")
    ax.set(xlabel="output columns", ylabel="output rows")
    return _tidy(ax, grid="both")


def _fit(
    grids: Iterable[Grid | None], width: float, cell: float = CELL
) -> tuple[float, float, float]:
    """The size of a cell with which every grid fits; the widest and the tallest grid (inches)."""
    height, widest = np.max([(1, 1), *(grid.shape for grid in grids if grid is not None)], axis=0)
    cell = min(cell, width / widest, SIDE / max(height, widest))
    return cell, cell * widest, cell * height


def _place(
    figure: Figure,
    grid: Grid | None,
    box: tuple[float, float, float, float],
    cell: float,
    frame: str | None = None,
) -> None:
    """Draw a grid, or "?", at the top of a box: left, top, width and height in inches."""
    (x, y, width, height), (full_width, full_height) = box, figure.get_size_inches()
    bottom = 1 - (y + height) / full_height
    ax = figure.add_axes((x / full_width, bottom, width / full_width, height / full_height))
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


def _write(figure: Figure, x: float, y: float, text: str, **style: object) -> None:
    """Write at inches from the left and the top."""
    width, height = figure.get_size_inches()
    style = {"ha": "center", "va": "top", "fontsize": 8, "color": INK, **style}
    figure.text(x / width, 1 - y / height, text, **style)


def _plot_shares(values: list, colors: list[str], bins: int, ax: Axes | None) -> Axes:
    """Stacked bars of how many test outputs have which share, from 0 to 1."""
    ax = plt.gca() if ax is None else ax
    ax.hist(values, bins=np.linspace(0, 1, bins + 1), color=colors, stacked=True, rwidth=0.85)
    ax.set(xlim=(-0.01, 1.01), xticks=[0, 0.5, 1], ylabel="test outputs")
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    return _tidy(ax)


def _label_ends(ax: Axes) -> None:
    """Write the name and last value of each line at its end, spread so that none overlap."""
    low, high = ax.get_ylim()
    step = 11 * (high - low) / (ax.get_window_extent().height / ax.figure.dpi * 72)  # 11 points
    lines = sorted(ax.get_lines(), key=lambda line: line.get_ydata()[-1])
    places = [line.get_ydata()[-1] for line in lines]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + step)
    for i, top in zip(reversed(range(len(places))), high - step * np.arange(len(places))):
        places[i] = min(places[i], top)
    for line, place in zip(lines, places):
        x, y = line.get_xydata()[-1]
        style = {"va": "center", "fontsize": 8, "color": line.get_color(), "annotation_clip": False}
        shift = {"xytext": (8, (place - y) / step * 11), "textcoords": "offset points"}
        ax.annotate(f"{line.get_label()}  {y:.1%}", (x, y), **shift, **style)


def _check_metrics(metrics: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    if unknown := [metric for metric in metrics if metric not in known]:
        raise ValueError(f"no metric {unknown} in {known}")


def _tidy(ax: Axes, *, grid: str | None = "y") -> Axes:
    """Take away what holds no information."""
    ax.set_frame_on(False)
    ax.set_axisbelow(True)
    if grid:
        ax.grid(axis=grid, color=FAINT, linewidth=0.6)
    ax.tick_params(length=0, labelsize=8, labelcolor=MUTED)
    plt.setp([ax.xaxis.label, ax.yaxis.label], fontsize=8, color=MUTED)
    return ax
