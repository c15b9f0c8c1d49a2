"""Metrics: predictions against solutions, per output, per task and over a data set.

Throughout, `predictions` is a table as `arc_airv.records.read_predictions` gives it, or the
`arc_airv.vote.Pools` made of it. `tasks` holds every task of the data set by id, with its
solutions: a test output without predictions counts as 0 (as 1 for `unanswered`), it never drops
out. `outputs` is a table as `score_outputs` gives it, `average` one of "task" (Kaggle's), "output"
and "all" (see `average_outputs`), and `ranked` a table as `arc_airv.vote.rank_candidates` gives it.
ValueErrors name a hidden solution that is needed, and predictions for outputs that are in no task.
"""

from arc_airv import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "arc_airv.metrics.curves": "metric_curves",
        "arc_airv.metrics.outputs": (
            "average_outputs bootstrap_interval evaluate pass_at_k score_outputs"
        ),
        "arc_airv.metrics.solutions": "find_right right_ranks score_predictions",
        "arc_airv.metrics.tables": (
            "Results describe_outputs metric_table read_results sort_tasks status_table"
        ),
    },
)
