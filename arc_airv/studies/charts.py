"""Charts of studies: gains of selectors, calibration, ranks, settings, costs.

Draws the tables that `arc_airv.studies.selection` gives, and tables of runs. Shows no figure and
saves none.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from arc_airv.plots.charts import METRIC_COLORS, check_metrics, label_ends, tidy
from arc_airv.plots.grids import FAINT, INK, MUTED, RIGHT, UNKNOWN


def plot_gains(compared: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the gain of each selector over the first of them.

    Parameters
    ----------
    compared : DataFrame
        As `arc_airv.studies.compare_selectors` gives it.
    ax : Axes, optional
        By default the current one.

    Returns
    -------
    Axes
        One row a selector, the first on top: a dot at its gain, a line for the interval.
    """
    ax = plt.gca() if ax is None else ax
    rows = np.arange(len(compared))[::-1]
    ax.hlines(rows, compared["low"], compared["high"], color=FAINT, linewidth=4)
    ax.plot(compared["gain"], rows, "o", color=METRIC_COLORS["vote_2"], markersize=5)
    label = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
    label["bbox"] = {"facecolor": "white", "linewidth": 0, "pad": 1}  # above the line at 0
    for row, (high, vote_2) in zip(rows, compared[["high", "vote_2"]].to_numpy()):
        ax.annotate(f"{vote_2:.1%}", (high, row), color=MUTED, **label)
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_yticks(rows, labels=compared.index)
    ax.set_ylim(-0.5, len(compared) - 0.2)
    ax.set_xlabel(f"vote_2 less that of {compared.index[0]}")
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    return _name_average(tidy(ax, grid="x"), compared)


def plot_calibration(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the share that is right of what is believed with some confidence.

    Parameters
    ----------
    table : DataFrame
        As `arc_airv.studies.calibration` gives it.
    ax : Axes, optional
        By default the current one.

    Returns
    -------
    Axes
        One disc a bin, its area by the number in it; the diagonal is perfect calibration.
    """
    ax = plt.gca() if ax is None else ax
    ax.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8)
    area = 15 + 150 * table["n"] / max(1, table["n"].max())
    ax.scatter(table["confidence"], table["right"], s=area, color=RIGHT, alpha=0.8, clip_on=False)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks([0, 0.25, 0.5, 0.75, 1])
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set(xlabel="confidence", ylabel="right")
    ax.set_title(f"calibration error {table.attrs['error']:.1%}", fontsize=9, color=INK)
    return tidy(ax, grid="both")


def plot_right_ranks(ranks: pd.DataFrame, *, n: int = 10, ax: Axes | None = None) -> Axes:
    """Draw the ranks of the right grids.

    Parameters
    ----------
    ranks : DataFrame
        As `arc_airv.metrics.right_ranks` gives it.
    n : int, default 10
        The last rank with a bar of its own.
    ax : Axes, optional
        By default the current one.

    Returns
    -------
    Axes
        Bars of how many test outputs; the first two are what a submission solves.
    """
    ax = plt.gca() if ax is None else ax
    counts = [(ranks["rank"] == k).sum() for k in range(1, n + 1)] + [(ranks["rank"] > n).sum()]
    colors = [RIGHT] * 2 + [UNKNOWN] * (n - 1)
    ax.bar(range(n + 1), counts, color=colors, width=0.8)
    ax.set_xticks(range(n + 1), labels=[*map(str, range(1, n + 1)), f">{n}"])
    ax.set(xlabel="rank of the right grid", ylabel="test outputs")
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    absent = int(ranks["rank"].isna().sum())
    ax.set_title(f"not among the candidates: {absent} of {len(ranks)}", fontsize=9, color=INK)
    return tidy(ax)


def plot_setting(
    table: pd.DataFrame,
    setting: str,
    *metrics: str,
    log: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Draw columns of a table against a setting of the search: a beam's width, a temperature.

    Parameters
    ----------
    table : DataFrame
        One row a value of the setting, ascending.
    setting : str
        The column for the x axis.
    *metrics : str
        Other columns of it. Those that are metrics are shown as percentages.
    log : bool, default False
        A logarithmic x axis, of base 2.
    ax : Axes, optional
        By default the current one.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the table lacks a column.
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
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))  # as many decimals as it takes
        label_ends(_name_average(ax, table))
    return tidy(ax)


def plot_costs(table: pd.DataFrame, metric: str, *, ax: Axes | None = None) -> Axes:
    """Draw a metric of each run over its cost: what to buy next.

    Parameters
    ----------
    table : DataFrame
        Indexed by the names of the runs, with the column seconds and the metric.
    metric : str
    ax : Axes, optional
        By default the current one.

    Returns
    -------
    Axes
        A dot each, seconds (logarithmic) to the right; the line joins the runs that no cheaper
        run reaches, and these are named.
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
    ax.set_xscale("log")
    ax.set_xlim(table["seconds"].min() / 2.5, table["seconds"].max() * 1.3)  # room for the names
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="seconds in the engine", ylabel=metric)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    return _name_average(tidy(ax, grid="both"), table)


def _name_average(ax: Axes, table: pd.DataFrame) -> Axes:
    """Write above the axes which average the table holds, if it says so."""
    ax.set_title(table.columns.name or "", fontsize=8, color=MUTED, loc="right")
    return ax
