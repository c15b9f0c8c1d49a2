"""Metrics: predictions against solutions, per output, per task and over a data set."""

from arc_airv.metrics.curves import metric_curves
from arc_airv.metrics.outputs import (
    AVERAGES,
    average_outputs,
    bootstrap_interval,
    evaluate,
    exact_score,
    expected_best,
    pass_at_k,
    pixel_score,
    score_outputs,
    size_score,
)
from arc_airv.metrics.solutions import score_predictions
from arc_airv.metrics.tables import (
    Results,
    describe_outputs,
    metric_table,
    read_results,
    sort_tasks,
    status_table,
)

__all__ = [
    "AVERAGES",
    "Results",
    "average_outputs",
    "bootstrap_interval",
    "describe_outputs",
    "evaluate",
    "exact_score",
    "expected_best",
    "metric_curves",
    "metric_table",
    "pass_at_k",
    "pixel_score",
    "read_results",
    "score_outputs",
    "score_predictions",
    "size_score",
    "sort_tasks",
    "status_table",
]
