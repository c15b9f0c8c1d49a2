"""Plots: grids, tasks and their candidates, charts of metrics."""

from arc_airv.plots.charts import (
    plot_agreement,
    plot_curves,
    plot_metric_distribution,
    plot_output_sizes,
)
from arc_airv.plots.grids import plot_candidates, plot_grid, plot_task

__all__ = [
    "plot_agreement",
    "plot_candidates",
    "plot_curves",
    "plot_grid",
    "plot_metric_distribution",
    "plot_output_sizes",
    "plot_task",
]
