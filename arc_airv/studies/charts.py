"""Charts of studies: gains of selectors, calibration, ranks, settings, costs."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from arc_airv.plots.charts import METRIC_COLORS, check_metrics, label_ends, tidy
from arc_airv.plots.colors import FAINT, INK, MUTED, RIGHT, UNKNOWN


def plot_gains(compared: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the gains of selectors or runs, the first on top: dots, on lines for the intervals."""
    ax = plt.gca() if ax is None else ax
    rows = np.arange(len(compared))[::-1]
    ax.hlines(rows, compared["low"], compared["high"], color=FAINT, linewidth=4)
    ax.plot(compared["gain"], rows, "o", color=METRIC_COLORS["vote_2"], markersize=5)
    label = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
    label["bbox"] = {"facecolor": "white", "linewidth": 0, "pad": 1}  # above the line at 0
    for row, high, vote_2 in zip(rows, compared["high"], compared["vote_2"]):
        ax.annotate(f"{vote_2:.1%}", (high, row), color=MUTED, **label)
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_yticks(rows, labels=compared.index)
    ax.set(ylim=(-0.5, len(compared) - 0.2), xlabel=f"vote_2 less that of {compared.index[0]}")
    return tidy(ax, grid="x", percent="x", average=compared.columns.name)


def plot_calibration(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw a `calibration`: a disc a bin, its area by the number in it; ideal is the diagonal."""
    ax = plt.gca() if ax is None else ax
    ax.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8)
    area = 15 + 150 * table["n"] / max(1, table["n"].max())
    ax.scatter(table["confidence"], table["right"], s=area, color=RIGHT, alpha=0.8, clip_on=False)
    ticks = [0, 0.25, 0.5, 0.75, 1]
    ax.set(xlim=(0, 1), ylim=(0, 1), xticks=ticks, yticks=ticks, aspect="equal")
    ax.set(xlabel="confidence", ylabel="right")
    title = f"calibration error {table.attrs['error']:.1%}"
    return tidy(ax, grid="both", percent="xy", title=title)


def plot_right_ranks(ranks: pd.DataFrame, *, n: int = 10, ax: Axes | None = None) -> Axes:
    """Draw `arc_airv.metrics.right_ranks`: the number of test outputs at each rank, up to n.

    The first two bars are what a submission solves.
    """
    ax = plt.gca() if ax is None else ax
    counts = [(ranks["rank"] == k).sum() for k in range(1, n + 1)] + [(ranks["rank"] > n).sum()]
    ax.bar(range(n + 1), counts, color=[RIGHT] * 2 + [UNKNOWN] * (n - 1), width=0.8)
    ax.set_xticks(range(n + 1), labels=[*map(str, range(1, n + 1)), f">{n}"])
    ax.set(xlabel="rank of the right grid", ylabel="test outputs")
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    absent = int(ranks["rank"].isna().sum())
    return tidy(ax, title=f"not among the candidates: {absent} of {len(ranks)}")


def plot_setting(
    table: pd.DataFrame, setting: str, *metrics: str, log: bool = False, ax: Axes | None = None
) -> Axes:
    """Draw columns of a table against its column of a setting: a beam's width, a temperature.

    Its rows ascend by the setting, on an axis that may be logarithmic (of base 2). If all columns
    are metrics, they are shown in percent.
    """
    check_metrics([setting, *metrics], table.columns)
    ax = plt.gca() if ax is None else ax
    for metric in metrics:
        color = METRIC_COLORS.get(metric, INK)
        ax.plot(table[setting], table[metric], "o-", label=metric, color=color, markersize=3)
    if log:
        ax.set_xscale("log", base=2)
    ax.set_xticks(table[setting], labels=[f"{value:g}" for value in table[setting]])
    ax.set_xticks([], minor=True)
    ax.set(xlabel=setting, ylabel=", ".join(metrics))
    if METRIC_COLORS.keys() >= set(metrics):
        ax.set_ylabel("")
        return label_ends(tidy(ax, percent="y", average=table.columns.name))
    return tidy(ax)


def plot_costs(table: pd.DataFrame, metric: str, *, ax: Axes | None = None) -> Axes:
    """Draw a metric of each run over its seconds (logarithmic): what to buy next.

    The line joins the runs that no cheaper run reaches, and these are named.
    """
    check_metrics(["seconds", metric], table.columns)
    ax = plt.gca() if ax is None else ax
    color = METRIC_COLORS.get(metric, INK)
    ordered = table.sort_values(["seconds", metric], ascending=[True, False])
    best = ordered[ordered[metric] > ordered[metric].cummax().shift(fill_value=-np.inf)]
    ax.step(best["seconds"], best[metric], where="post", color=color, linewidth=0.8)
    others = table.drop(index=best.index)
    ax.plot(others["seconds"], others[metric], "o", color=MUTED, markersize=3, alpha=0.6)
    ax.plot(best["seconds"], best[metric], "o", color=color, markersize=4)
    # Up and to the left of its dot, where no better run is: the line comes from below.
    style = {"xytext": (-3, 3), "textcoords": "offset points", "ha": "right", "fontsize": 7}
    for name, seconds, value in best[["seconds", metric]].itertuples():
        ax.annotate(name, (seconds, value), color=INK, **style)
    ax.set(xscale="log", xlabel="seconds in the engine", ylabel=metric)
    ax.set_xlim(table["seconds"].min() / 2.5, table["seconds"].max() * 1.3)  # room for the names
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    return tidy(ax, grid="both", percent="y", average=table.columns.name)
