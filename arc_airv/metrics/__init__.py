"""Metrics: predictions against solutions, per output, per task and over a data set."""

from arc_airv.metrics.curves import metric_curves
from arc_airv.metrics.outputs import (
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
from arc_airv.metrics.solutions import find_right, right_ranks, score_predictions

__all__ = [
    "average_outputs",
    "bootstrap_interval",
    "evaluate",
    "exact_score",
    "expected_best",
    "find_right",
    "metric_curves",
    "pass_at_k",
    "pixel_score",
    "right_ranks",
    "score_outputs",
    "score_predictions",
    "size_score",
]
