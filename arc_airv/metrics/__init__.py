"""Metrics: predictions against solutions, per output, per task and over a data set."""

from arc_airv.metrics.curves import metric_curves
from arc_airv.metrics.outputs import (
    average_outputs,
    bootstrap_interval,
    evaluate,
    pass_at_k,
    score_outputs,
)
from arc_airv.metrics.solutions import find_right, right_ranks, score_predictions
from arc_airv.metrics.tables import (
    Results,
    describe_outputs,
    metric_table,
    read_results,
    sort_tasks,
    status_table,
)

__all__ = [
    "Results",
    "average_outputs",
    "bootstrap_interval",
    "describe_outputs",
    "evaluate",
    "find_right",
    "metric_curves",
    "metric_table",
    "pass_at_k",
    "read_results",
    "right_ranks",
    "score_outputs",
    "score_predictions",
    "sort_tasks",
    "status_table",
]
