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

__all__ = [
    "average_outputs",
    "bootstrap_interval",
    "evaluate",
    "find_right",
    "metric_curves",
    "pass_at_k",
    "right_ranks",
    "score_outputs",
    "score_predictions",
]
