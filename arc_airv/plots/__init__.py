"""Plots: grids, tasks and their candidates, charts of metrics, the page that browses a store.

Throughout, a plot draws on `ax`, by default the current axes, and returns it; what needs several
axes returns a new figure. None is shown or saved. `ranked` is a table as
`arc_airv.vote.rank_candidates` gives it, `outputs` one as `arc_airv.metrics.describe_outputs`. The
title at the right tells which mean a table holds. A ValueError about a metric names those known.

`browse` makes a page instead: one HTML file, to look at every prediction.
"""

from arc_airv import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "arc_airv.plots.charts": (
            "plot_agreement plot_curves plot_metric_distribution plot_output_sizes"
        ),
        "arc_airv.plots.gallery": "metrics_html plot_gallery",
        "arc_airv.plots.grids": "plot_candidates plot_grid plot_task",
        "arc_airv.plots.page": "Page browse",
    },
)
