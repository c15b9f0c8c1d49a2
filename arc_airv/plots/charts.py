"""Charts of metrics: curves, distributions, agreement, output sizes.

Those of studies are in `arc_airv.studies.charts`.
"""

from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from arc_airv.plots.colors import FAINT, INK, MUTED, RIGHT, UNKNOWN, WRONG
from arc_airv.tasks import Task
from arc_airv.vote.candidates import POOL

METRIC_COLORS = {  # so that a metric has one colour in every plot
    **{"pass_n": "#1A9850", "vote_2": "#2166AC", "vote_1": "#74ADD1", "random_2": "#B2ABD2"},
    **{"accuracy": "#8C8C8C", "unanswered": "#D7301F", "best_correct_size": "#B35806"},
    **{"best_correct_pixels": "#542788", "correct_size": "#E08214", "correct_pixels": "#9E8AC4"},
}


def plot_curves(
    curves: pd.DataFrame, *, metrics: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """Draw `arc_airv.metrics.metric_curves`, or those of some metrics, with intervals as bands.

    A metric without a value at any n is left out, as voting_accuracy where nothing is right.
    """
    known = list(curves["metric"].unique())
    metrics = known if metrics is None else list(metrics)
    check_metrics(metrics, known)
    by_metric = curves.dropna(subset="value").sort_values("n").set_index("metric")
    ax = plt.gca() if ax is None else ax
    style = {"linewidth": 1.6, "markersize": 3, "clip_on": False}
    for metric in [metric for metric in metrics if metric in by_metric.index]:
        n, value, low, high = by_metric.loc[[metric], ["n", "value", "low", "high"]].to_numpy().T
        (line,) = ax.plot(n, value, "o-", label=metric, color=METRIC_COLORS.get(metric), **style)
        ax.fill_between(n, low, high, color=line.get_color(), alpha=0.1, linewidth=0)
    ticks = sorted(curves["n"].unique())
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, labels=map(str, ticks))
    ax.set_xticks([], minor=True)
    ax.set_xlabel("predictions per output")
    ax.margins(x=0.01)
    bottom, top = ax.get_ylim()
    ax.set_ylim(max(bottom, 0), max(top, 0.1))  # a share is never below 0, nor are all of them 0
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    return label_ends(tidy(ax, percent="y", average=curves.columns.name))


def plot_metric_distribution(outputs: pd.DataFrame, metric: str, *, ax: Axes | None = None) -> Axes:
    """Draw the distribution of a metric over the test outputs, and its mean over the tasks."""
    check_metrics([metric], outputs.columns)
    if outputs.empty:
        raise ValueError("no test outputs to draw")
    mean, color = outputs.groupby("task_id")[metric].mean().mean(), METRIC_COLORS.get(metric)
    ax = _plot_shares([outputs[metric]], [color or UNKNOWN], 20, f"{metric}, mean {mean:.1%}", ax)
    ax.axvline(mean, color=INK, linewidth=0.8)
    return ax


def plot_agreement(outputs: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the share of the predictions that give the first candidate, and whether it is right.

    The stacked bars are green for right, red for wrong, grey where the solution is hidden and light
    grey for the outputs without any grid.
    """
    right = outputs["vote_1"].map({1: "right", 0: "wrong"}) if "vote_1" in outputs else "hidden"
    kind = pd.Series(right, outputs.index).where(outputs["unanswered"] < 1, "unanswered")
    kinds = ("right", "wrong", "hidden", "unanswered")
    shares = [outputs["agreement"][kind == name] for name in kinds]
    title = "share of the predictions that give the first candidate"
    ax = _plot_shares(shares, [RIGHT, WRONG, UNKNOWN, FAINT], 10, title, ax)
    bars = {name: bar for name, bar, share in zip(kinds, ax.containers, shares) if len(share)}
    style = {"loc": "upper left", "frameon": False, "fontsize": 8, "labelcolor": MUTED}
    ax.legend(bars.values(), bars, bbox_to_anchor=(1, 1), **style)
    return ax


def plot_output_sizes(
    outputs: pd.DataFrame, tasks: dict[str, Task], metric: str, *, ax: Axes | None = None
) -> Axes:
    """Draw a metric by the size of the solutions.

    The area of the disc at a size grows with the number of outputs, its colour is their mean.

    Raises
    ------
    ValueError
        If a solution is hidden or there are no outputs.
    """
    check_metrics([metric], outputs.columns)
    solutions = [tasks[t].test[i].output for t, i in outputs[POOL].itertuples(index=False)]
    if not solutions or any(solution is None for solution in solutions):
        raise ValueError("the sizes of the solutions are hidden, or there are no outputs")
    ax = plt.gca() if ax is None else ax
    rows, columns = np.array([solution.shape for solution in solutions]).T
    sizes = outputs[metric].groupby([columns, rows]).agg(["mean", "size"])
    sizes = sizes.sort_values("size", ascending=False, kind="stable")  # small discs on large ones
    x, y = np.array(sizes.index.to_list()).T
    style = {"cmap": "viridis", "vmin": 0, "vmax": 1, "linewidth": 0, "clip_on": False}
    area = 20 + 140 * (sizes["size"] - 1) / max(10, sizes["size"].max() - 1)
    discs = ax.scatter(x, y, s=area, c=sizes["mean"], **style)
    bar = ax.figure.colorbar(discs, ax=ax, shrink=0.7, aspect=24, label=metric)
    bar.outline.set_visible(False)
    tidy(bar.ax, grid=None, percent="y")
    ticks = [1, 5, 10, 15, 20, 25, 30]
    ax.set(xlim=(0, 31), ylim=(0, 31), xticks=ticks, yticks=ticks, aspect="equal")
    ax.set(xlabel="output columns", ylabel="output rows")
    return tidy(ax, grid="both")


def _plot_shares(values: list, colors: list[str], bins: int, title: str, ax: Axes | None) -> Axes:
    """Draw stacked bars: the number of test outputs at each share, from 0 to 1."""
    ax = plt.gca() if ax is None else ax
    ax.hist(values, bins=np.linspace(0, 1, bins + 1), color=colors, stacked=True, rwidth=0.85)
    ax.set(xlim=(-0.01, 1.01), xticks=[0, 0.5, 1], ylabel="test outputs")
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    return tidy(ax, percent="x", title=title)


def label_ends(ax: Axes) -> Axes:
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
    return ax


def check_metrics(metrics: Iterable[str], known: Iterable[str]) -> None:
    """Raise a ValueError that names the metrics which are not among the known ones."""
    known = list(known)
    if unknown := [metric for metric in metrics if metric not in known]:
        raise ValueError(f"no metric {unknown} in {known}")


def tidy(
    ax: Axes, *, grid: str | None = "y", percent: str = "", title: str = "", average: str = ""
) -> Axes:
    """Take away what holds no information; show the axes named in `percent` as shares."""
    ax.set_frame_on(False)
    ax.set_axisbelow(True)
    if grid:
        ax.grid(axis=grid, color=FAINT, linewidth=0.6)
    for name in percent:
        getattr(ax, f"{name}axis").set_major_formatter(PercentFormatter(1.0))
    if title:
        ax.set_title(title, fontsize=9, color=INK)
    if average:
        ax.set_title(average, fontsize=8, color=MUTED, loc="right")
    ax.tick_params(length=0, labelsize=8, labelcolor=MUTED)
    plt.setp([ax.xaxis.label, ax.yaxis.label], fontsize=8, color=MUTED)
    return ax
