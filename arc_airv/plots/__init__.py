"""Plots: grids, tasks and their candidates, charts of metrics, the gallery."""

from arc_airv.plots.charts import (
    plot_agreement,
    plot_curves,
    plot_metric_distribution,
    plot_output_sizes,
)
from arc_airv.plots.gallery import metrics_html, plot_gallery, write_gallery
from arc_airv.plots.grids import plot_candidates, plot_grid, plot_task

__all__ = [
    "metrics_html",
    "plot_agreement",
    "plot_candidates",
    "plot_curves",
    "plot_gallery",
    "plot_grid",
    "plot_metric_distribution",
    "plot_output_sizes",
    "plot_task",
    "write_gallery",
]
